"""`crop_batch` against `render`, which is Pillow's, and `crop`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from augmentations import CROP, Drawn, View, crop, crop_batch, crop_of, render, sample_random
from tests.augmentations.pictures import across_first, picture, tensor


def padded(images: list[torch.Tensor], side: int, fill: int = 0) -> torch.Tensor:
    batch = torch.full((len(images), 3, side, side), fill, dtype=torch.uint8)
    for row, image in zip(batch, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch


def numbers(drawn: list[Drawn]) -> torch.Tensor:
    rows = [crop_of(d) for d in drawn]
    assert {len(row) for row in rows} == {CROP}
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [1, 32, 50])
def test_a_batch_of_crops_is_pillows_within_a_twentieth_of_a_level(size: int, interpolation: Any) -> None:
    view = View(size=size, interpolation=interpolation, jitter=0.0, gray=0.0)
    shapes = [(32, 32), (64, 48), (47, 64), (1, 1), (64, 1), (20, 31)]
    images = [picture(i, *shapes[i % len(shapes)]) for i in range(90)]
    drawn = [view.draw(sample_random(0, 0, i, 0), image.height, image.width) for i, image in enumerate(images)]
    assert any(d.flip for d in drawn)
    ours = crop_batch(padded([tensor(image) for image in images], 64), numbers(drawn), view)
    theirs = torch.stack([render(image, d) for image, d in zip(images, drawn)])
    assert ours.dtype == torch.uint8
    assert (ours.float() - theirs.float()).abs().mean() < 0.05
    across = torch.stack([across_first(image, d) for image, d in zip(images, drawn)])
    away = (ours.float() - across.float()).abs()
    assert away.max() <= 2
    assert away.mean() < (0.001 if interpolation == "bicubic" else 0.02)  # bilinear sums are often just a half
    one_by_one = torch.stack([crop(tensor(image), d) for image, d in zip(images, drawn)])
    assert (ours.float() - one_by_one.float()).abs().mean() < 0.01


def test_what_lies_around_an_image_is_never_looked_at() -> None:
    view = View(size=24, jitter=0.0, gray=0.0)
    images = [tensor(picture(i, 20 + i, 40 - i)) for i in range(12)]
    drawn = [view.draw(sample_random(1, 0, i, 0), 20 + i, 40 - i) for i in range(12)]
    first, second = (crop_batch(padded(images, 48, fill), numbers(drawn), view) for fill in (0, 255))
    assert torch.equal(first, second)


def test_a_crop_of_the_result_s_size_is_copied_to_the_bit() -> None:
    image = picture(3, 60, 60)
    view = View(size=32)
    for flip in (False, True):
        drawn = Drawn(5, 9, 32, 32, 32, "bicubic", flip, (), False, 0.0, None)
        assert torch.equal(crop_batch(tensor(image)[None], numbers([drawn]), view)[0], render(image, drawn))


def test_a_turn_is_refused() -> None:
    drawn = Drawn(0, 0, 8, 8, 8, "bicubic", False, (), False, 0.0, None, (11.0, 0.8))
    with pytest.raises(ValueError, match="turn > 0 cannot be cut out of a set held on the device: hold the set"):
        crop_of(drawn)
