"""`crop` against `render`, which is Pillow's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from augmentations import Drawn, View, crop, render, sample_random
from tests.augmentations.pictures import across_first, picture, tensor

PLAIN = View(jitter=0.0, gray=0.0)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.dtype == theirs.dtype == torch.uint8
    assert ours.shape == theirs.shape
    return (ours.float() - theirs.float()).abs().mean().item()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, 96, 224])
def test_a_crop_is_pillows_within_a_twentieth_of_a_level(size: int, interpolation: Any) -> None:
    view = View(size=size, interpolation=interpolation, jitter=0.0, gray=0.0)
    shapes = [(375, 500), (500, 333), (64, 64), (32, 32), (700, 120), (240, 1)]
    differences, across = [], []
    for sample in range(30):
        image = picture(sample, *shapes[sample % len(shapes)])
        drawn = view.draw(sample_random(0, 0, sample, 0), image.height, image.width)
        differences.append(difference(crop(tensor(image), drawn), render(image, drawn)))
        across.append(difference(crop(tensor(image), drawn), across_first(image, drawn)))
        assert across[-1] < 0.05, drawn
        assert differences[-1] < 0.3, drawn
    assert sum(across) / len(across) < 0.01
    assert sum(differences) / len(differences) < 0.05


def test_both_memory_layouts_give_the_same() -> None:
    pixels = tensor(picture(1, 90, 130))
    for sample in range(8):
        drawn = PLAIN.draw(sample_random(0, 0, sample, 0), 90, 130)
        assert torch.equal(crop(pixels, drawn), crop(pixels.contiguous(), drawn))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (2, 3)])
def test_a_few_pixels(height: int, width: int) -> None:
    image = picture(2, height, width)
    drawn = Drawn(0, 0, height, width, 24, "bicubic", True, (), False, 0.0, None)
    ours, theirs = crop(tensor(image), drawn), render(image, drawn)
    assert (ours.float() - theirs.float()).abs().max() <= 1


def test_one_pixel_of_many() -> None:
    image = picture(2, 40, 50)
    drawn = Drawn(39, 49, 1, 1, 24, "bicubic", False, (), False, 0.0, None)
    assert torch.equal(crop(tensor(image), drawn), render(image, drawn))


def test_a_crop_of_the_result_s_size_is_copied_and_flipped_to_the_bit() -> None:
    image = picture(3, 60, 70)
    before = tensor(image)
    for flip in (False, True):
        drawn = Drawn(5, 9, 32, 32, 32, "bicubic", flip, (), False, 0.0, None)
        ours = crop(before, drawn)
        assert torch.equal(ours, render(image, drawn))
        ours.fill_(7)
        assert torch.equal(before, tensor(image))


def test_a_flip_is_that_of_the_same_crop() -> None:
    pixels = tensor(picture(4, 60, 70))
    drawn = Drawn(5, 9, 41, 52, 32, "bicubic", False, (), False, 0.0, None)
    assert torch.equal(crop(pixels, drawn._replace(flip=True)), crop(pixels, drawn).flip(-1))


def test_a_turn_is_pillows() -> None:
    image = picture(5, 60, 70)
    drawn = Drawn(5, 9, 32, 32, 32, "bicubic", True, (), False, 0.0, None, (11.0, 0.8), (255, 7, 90))
    for pixels in (tensor(image), tensor(image).contiguous()):
        assert torch.equal(crop(pixels, drawn), render(image, drawn))


@pytest.mark.parametrize("pixels", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8)])
def test_other_pixels_are_refused(pixels: torch.Tensor) -> None:
    drawn = Drawn(0, 0, 1, 1, 24, "bicubic", False, (), False, 0.0, None)
    with pytest.raises(ValueError, match=r"crop takes uint8 \(3, H, W\), not torch"):
        crop(pixels, drawn)
