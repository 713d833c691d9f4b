"""Batches are functions of (seed, step, rank): not of workers, of ranks, or of where a run was resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from augmentations import View, normalize, render, sample_random
from data import BadImage
from data.decode import as_tensor
from data.loader import Loaded, StepBatches, load, steps_per_epoch, to_device
from data.order import batch_samples
from objectives import Batch
from parallel import World

VIEWS = (View(size=16, blur=1.0), View(size=16, blur=0.1, solarize=0.2))


class Noise:
    """Forty images of noise; those in `bad` cannot be read."""

    classes = ("a", "b")
    labels = np.arange(40, dtype=np.int64) % 2

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 40

    def image(self, index: int) -> Image.Image:
        if index in self.bad:
            raise BadImage(f"{index}.jpg: broken")
        pixels = np.random.default_rng(index).integers(0, 255, (20 + index, 24, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def pixels(self, index: int) -> torch.Tensor:
        return as_tensor(self.image(index))

    def name(self, index: int) -> str:
        return f"{index}.jpg"


def batches(rank: int = 0, world: int = 1, bad: tuple[int, ...] = (), skip: bool = False) -> StepBatches:
    return StepBatches(Noise(bad), VIEWS, 7, 8, rank, world, skip)


def same(one: Loaded, other: Loaded) -> bool:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        return [*batch.views, batch.index, batch.label, *(batch.text or ())]

    return all(torch.equal(a, b) for a, b in zip(tensors(one.batch), tensors(other.batch), strict=True))


def test_each_row_is_the_view_that_its_seed_draws() -> None:
    step = 6
    loaded = batches()[step]
    epoch, samples = batch_samples(7, step, 0, 1, 8, 40)
    assert epoch == 1
    assert loaded.batch.index.tolist() == samples.tolist()
    assert loaded.batch.label.tolist() == (samples % 2).tolist()
    for row, sample in enumerate(samples):
        image = Noise().image(int(sample))
        for number, view in enumerate(VIEWS):
            drawn = view.draw(sample_random(7, epoch, int(sample), number), image.height, image.width)
            assert torch.equal(loaded.batch.views[number][row], render(image, drawn))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_a_late_start_change_nothing(workers: int) -> None:
    expected = [batches()[step] for step in range(12)]
    for start in (0, 7):
        found = list(load(batches(), start, 12, workers, pin=False))
        assert len(found) == 12 - start
        assert all(same(one, other) for one, other in zip(found, expected[start:], strict=True))


def test_ranks_make_the_rows_of_one_process() -> None:
    for step in (0, 5, 9):
        whole = batches()[step].batch
        parts = [batches(rank, 4)[step].batch for rank in range(4)]
        for view in range(2):
            assert torch.equal(torch.cat([part.views[view] for part in parts]), whole.views[view])
        assert torch.equal(torch.cat([part.index for part in parts]), whole.index)


def test_an_unreadable_image_is_an_error_or_is_replaced_by_its_neighbour() -> None:
    sample = int(batches()[0].batch.index[3])
    failed = batches(bad=(sample,))[0]
    assert failed.error == f"{sample}.jpg: broken"
    second = (sample + 1) % 40
    loaded = batches(bad=(sample, second), skip=True)[0]
    assert loaded.error is None
    assert loaded.replaced == [f"{sample}.jpg: broken", f"{second}.jpg: broken"]
    expected = batches()[0].batch.index.tolist()
    expected[3] = (sample + 2) % 40
    assert loaded.batch.index.tolist() == expected


def test_a_set_without_a_readable_image_is_an_error() -> None:
    assert batches(bad=tuple(range(40)), skip=True)[0].error is not None


def test_views_are_normalised_on_the_device() -> None:
    raw = batches()[0].batch
    batch = to_device(raw, VIEWS, torch.device("cpu"), channels_last=True)
    assert torch.equal(batch.views[0], normalize(raw.views[0], VIEWS[0].mean, VIEWS[0].std))
    assert batch.views[0].is_contiguous(memory_format=torch.channels_last)


def test_a_batch_must_divide_over_the_ranks_and_fit_the_set() -> None:
    def world(size: int) -> World:
        return World(0, size, torch.device("cpu"))

    assert steps_per_epoch(Noise(), 8, world(4)) == 5
    assert steps_per_epoch(Noise(), 12, world(1)) == 3
    with pytest.raises(ValueError, match="--batch-size 10 does not divide over 4 ranks: take 8 or 12"):
        steps_per_epoch(Noise(), 10, world(4))
    with pytest.raises(ValueError, match="more than the 40 images"):
        steps_per_epoch(Noise(), 64, world(4))
