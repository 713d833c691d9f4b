"""A set held on the device gives the batches of any other path, up to the rounding of its crop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from augmentations import BARLOW_TWINS
from data import resident
from data.batches import StepBatches
from data.images import BadImage
from data.loader import Loader
from data.resident import ResidentLoader, check_resident, hold
from data.sets import Pixels

CPU = torch.device("cpu")
LEVEL = 1 / 255 / 0.225  # of 256, in units of the smallest standard deviation
STEPS = 6  # with 40 images in batches of 16: into the third epoch


def some(count: int, sizes: tuple[int, int] = (32, 32)) -> Pixels:
    """Returns smooth pictures, no two the same."""
    random = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 5, 5, generator=random)
    pixels = torch.nn.functional.interpolate(small, sizes, mode="bicubic").clamp(0, 1) * 255
    labels = np.arange(count) % 3
    return Pixels(Path("pictures"), ("a", "b", "c"), pixels.byte().permute(0, 2, 3, 1).contiguous().numpy(), labels)


class Mixed(Pixels):
    """Pictures of several sizes."""

    def pixels(self, index: int) -> torch.Tensor:
        """Returns a part of the picture."""
        return super().pixels(index)[:, : 32 - index % 5, : 32 - index % 7]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_fast_path(workers: int) -> None:
    whole = some(40)
    images = Mixed(whole.root, whole.classes, whole.array, whole.labels)
    views = tuple(replace(view, size=24) for view in BARLOW_TWINS)
    for rank in range(2):
        batches = StepBatches(images, views, 7, 16, rank, 2, False)
        held = ResidentLoader(batches, hold(images, CPU), 1, STEPS, workers, channels_last=True)
        for ours, theirs in zip(held, Loader(batches, 1, STEPS, 0, CPU, True), strict=True):
            assert ours.batch.index.tolist() == theirs.batch.index.tolist()
            assert ours.batch.label.tolist() == theirs.batch.label.tolist()
            for a, b in zip(ours.batch.views, theirs.batch.views, strict=True):
                assert a.stride() == b.stride()
                assert (a - b).abs().mean() < 0.05 * LEVEL
                assert (a - b).abs().amax() < 8 * LEVEL


def test_images_lie_in_the_corner_and_their_sizes_are_known() -> None:
    whole = some(8)
    images = Mixed(whole.root, whole.classes, whole.array, whole.labels)
    held = hold(images, CPU)
    for index in range(8):
        height, width = held.sizes[index].tolist()
        assert torch.equal(held.pixels[index, :, :height, :width], images.pixels(index))
        assert held.pixels[index, :, height:].sum() == held.pixels[index, :, :, width:].sum() == 0
    assert str(held) == "8 images of 32 x 32, 0 MB, held on cpu"


def test_what_cannot_be_held_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    images = some(4)
    monkeypatch.setattr(resident, "free_bytes", lambda device: 10_000)
    with pytest.raises(ValueError, match=r"4 images of 32 x 32 take 0.00 GB, and cpu has 0.00 GB free, of which 70%"):
        hold(images, CPU)
    monkeypatch.undo()

    class Odd(Pixels):
        def pixels(self, index: int) -> torch.Tensor:
            if index == 3:
                return torch.zeros(3, 200, 300, dtype=torch.uint8)
            return super().pixels(index)

    with pytest.raises(ValueError, match=r"as large as the largest, 300 pixels: .* pack them smaller"):
        hold(Odd(images.root, images.classes, images.array, images.labels), CPU)

    class Broken(Pixels):
        def pixels(self, index: int) -> torch.Tensor:
            raise BadImage("x.jpg: not an image")

    with pytest.raises(ValueError, match=r"--resident reads every image: x.jpg: not an image; .*--skip-bad-images"):
        hold(Broken(images.root, images.classes, images.array, images.labels), CPU)


def test_what_only_the_host_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="this recipe wants captions"):
        check_resident(BARLOW_TWINS, "fast", True)
    with pytest.raises(ValueError, match="--views reference makes them by Pillow"):
        check_resident(BARLOW_TWINS, "reference", False)
    with pytest.raises(ValueError, match="cannot turn images"):
        check_resident((replace(BARLOW_TWINS[0], turn=0.5, angle=10),), "fast", False)
    check_resident(BARLOW_TWINS, "fast", False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_batches() -> None:
    images = some(40)
    views = tuple(replace(view, size=24) for view in BARLOW_TWINS)
    batches = StepBatches(images, views, 7, 16, 0, 1, False)
    gpu = torch.device("cuda")
    on_gpu = ResidentLoader(batches, hold(images, gpu), 0, 4, 2, channels_last=True)
    for ours, theirs in zip(on_gpu, Loader(batches, 0, 4, 0, CPU, True), strict=True):
        assert ours.batch.index.tolist() == theirs.batch.index.tolist()
        for a, b in zip(ours.batch.views, theirs.batch.views, strict=True):
            assert a.device.type == "cuda"
            assert (a.cpu() - b).abs().mean() < 0.1 * LEVEL
