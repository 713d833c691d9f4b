"""Batches are functions of (seed, step, rank): not of workers, of ranks, or of where a run was resumed."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from augmentations import Rest, View, crop, finish, normalize, render, rest_of, sample_random
from data import BadImage, loader
from data.ahead import to_device
from data.batches import Execution, Made, Rows, StepBatches, loaded
from data.decode import as_tensor
from data.loader import HELD, Loader, Plan, steps_per_epoch
from data.order import batch_samples
from objectives import Batch
from parallel import World

VIEWS = (View(size=16, blur=1.0), View(size=16, blur=0.1, solarize=0.2))
CPU = torch.device("cpu")
PATHS: tuple[Execution, ...] = ("fast", "reference")


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


def batches(
    rank: int = 0, world: int = 1, bad: tuple[int, ...] = (), skip: bool = False, path: Execution = "fast"
) -> StepBatches:
    return StepBatches(Noise(bad), VIEWS, 7, 8, rank, world, skip, execution=path)


def tensors(batch: Batch) -> list[Tensor]:
    return [*batch.views, batch.index, batch.label, *(batch.text or ())]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def kept(batch: Batch) -> Batch:
    """Returns a copy, as who keeps a batch needs: the loader uses its memory again."""
    views = tuple(view.clone() for view in batch.views)
    return batch._replace(views=views, index=batch.index.clone(), label=batch.label.clone())


@pytest.mark.parametrize("path", PATHS)
def test_each_row_is_the_view_that_its_seed_draws(path: Execution) -> None:
    step = 6
    found = batches(path=path)[step]
    done = to_device(found, VIEWS, CPU, channels_last=False)
    epoch, samples = batch_samples(7, step, 0, 1, 8, 40)
    assert epoch == 1
    assert found.batch.index.tolist() == samples.tolist()
    assert found.batch.label.tolist() == (samples % 2).tolist()
    for row, sample in enumerate(samples):
        image = Noise().image(int(sample))
        for number, view in enumerate(VIEWS):
            drawn = view.draw(sample_random(7, epoch, int(sample), number), image.height, image.width)
            expected = normalize(render(image, drawn), view.mean, view.std)
            if path == "fast":
                expected = finish(crop(as_tensor(image), drawn)[None], Rest.of(torch.tensor([rest_of(drawn)])), view)[0]
            assert torch.equal(done.views[number][row], expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_a_late_start_change_nothing(workers: int, path: Execution) -> None:
    expected = [to_device(batches(path=path)[step], VIEWS, CPU, True) for step in range(12)]
    for start in (0, 7):
        found = [kept(one.batch) for one in Loader(batches(path=path), start, 12, workers, CPU, channels_last=True)]
        assert len(found) == 12 - start
        assert all(same(one, other) for one, other in zip(found, expected[start:], strict=True))
        assert all(view.is_contiguous(memory_format=torch.channels_last) for one in found for view in one.views)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cut", [(0, 8), (0, 3, 8), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_parts_change_nothing(cut: tuple[int, ...], path: Execution) -> None:
    one = batches(path=path)
    epoch, samples = one.samples(3)
    rows = one.rows(8)
    parts = [one.fill(samples[i:j], epoch, rows.part(i, j)) for i, j in itertools.pairwise(cut)]
    found = to_device(loaded(rows, parts), VIEWS, CPU, channels_last=False)
    assert same(found, to_device(one[3], VIEWS, CPU, channels_last=False))


def test_ranks_make_the_rows_of_one_process() -> None:
    for step in (0, 5, 9):
        whole = batches()[step]
        parts = [batches(rank, 4)[step] for rank in range(4)]
        for view in range(2):
            assert torch.equal(torch.cat([part.batch.views[view] for part in parts]), whole.batch.views[view])
            assert torch.equal(torch.cat([part.rest[view].numbers for part in parts]), whole.rest[view].numbers)
        assert torch.equal(torch.cat([part.batch.index for part in parts]), whole.batch.index)


@pytest.mark.parametrize("path", PATHS)
def test_an_unreadable_image_is_an_error_or_is_replaced_by_its_neighbour(path: Execution) -> None:
    sample = int(batches()[0].batch.index[3])
    failed = batches(bad=(sample,), path=path)[0]
    assert failed.error == f"{sample}.jpg: broken"
    second = (sample + 1) % 40
    found = batches(bad=(sample, second), skip=True, path=path)[0]
    assert found.error is None
    assert found.replaced == [f"{sample}.jpg: broken", f"{second}.jpg: broken"]
    expected = batches()[0].batch.index.tolist()
    expected[3] = (sample + 2) % 40
    assert found.batch.index.tolist() == expected


def test_a_set_without_a_readable_image_is_an_error() -> None:
    assert batches(bad=tuple(range(40)), skip=True)[0].error is not None


@pytest.mark.parametrize("device", [CPU, None])
def test_parts_tell_of_unreadable_images_as_one_whole(
    device: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "plan", lambda rows, workers: Plan(4, 2, 3))  # parts of two rows
    order = batches()[0].batch.index.tolist()
    for skip in (False, True):
        one = StepBatches(Noise((order[6], order[2])), VIEWS, 7, 8, 0, 1, skip)
        found = next(iter(Loader(one, 0, 1, 1, device)))
        assert found.replaced == one[0].replaced
        assert {f"{order[i]}.jpg: broken" for i in ((2, 6) if skip else (2,))} == set(found.replaced)
        assert found.error == one[0].error == (None if skip else f"{order[2]}.jpg: broken")


def test_views_are_normalised_on_the_device() -> None:
    raw = batches(path="reference")[0]
    batch = to_device(raw, VIEWS, CPU, channels_last=True)
    assert torch.equal(batch.views[0], normalize(raw.batch.views[0], VIEWS[0].mean, VIEWS[0].std))
    assert batch.views[0].is_contiguous(memory_format=torch.channels_last)


class Counted(StepBatches):
    """Writes a step's number into every byte of its batch, and counts the parts that all workers have made."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(Noise(), (View(size=8),), 0, batch_size, 0, 1, False, execution="reference")
        self.made: Any = multiprocessing.get_context("fork").Value("i")

    def samples(self, step: int) -> tuple[int, np.ndarray]:
        return step, np.arange(self.batch_size)

    def fill(self, samples: np.ndarray, epoch: int, rows: Rows) -> Made:
        for memory in (*rows.views, rows.index, rows.label):
            memory.fill_(epoch)
        with self.made:
            self.made.value += 1
        return Made()


def torn(rows: int, workers: int, plan: Plan) -> bool:
    """Whether any row of the newest batches changes while the workers make all that they are asked for."""
    one, steps = Counted(rows), 20
    newest: deque[Batch] = deque(maxlen=HELD)
    for step, found in enumerate(Loader(one, 0, steps, workers, None)):
        newest.append(found.batch)
        asked = min((step + 1) * plan.parts + plan.prefetch * workers, steps * plan.parts)
        deadline = time.monotonic() + 60
        while one.made.value < asked and time.monotonic() < deadline:
            time.sleep(0.001)
        assert one.made.value == asked
        for age, batch in enumerate(reversed(newest)):
            if any((memory != step - age).any() for memory in tensors(batch)):
                return True
    return False


@pytest.mark.parametrize(("rows", "workers"), [(12, 1), (12, 2), (70, 1), (130, 2), (200, 2)])
def test_no_row_is_torn_while_all_workers_are_ahead(rows: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches stay whole, the newest and the one before; with one slot fewer they would not."""
    plan = loader.plan(rows, workers)
    assert not torn(rows, workers, plan)
    fewer = plan._replace(slots=plan.slots - 1)
    monkeypatch.setattr(loader, "plan", lambda rows, workers: fewer)
    assert torn(rows, workers, fewer)


def test_without_workers_two_slots_are_enough() -> None:
    assert loader.plan(256, 0).slots == HELD
    assert not torn(70, 0, loader.plan(70, 0))


@pytest.mark.parametrize("workers", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("rows", [1, 16, 100, 256, 2048])
def test_all_workers_share_the_first_batch_and_memory_stays_bounded(rows: int, workers: int) -> None:
    plan = loader.plan(rows, workers)
    assert rows / plan.parts <= 64
    assert rows / plan.parts >= 32 or plan.parts == 1
    assert plan.parts >= min(workers, rows // 32)
    assert plan.prefetch * workers >= max(plan.parts, 2 * workers)  # a whole batch, and no worker waits for its next
    held = (plan.slots - HELD - 1) * rows  # beside two batches that are read and one that is made
    assert held <= 2 * workers * rows / plan.parts
    if rows >= 64 * workers:
        assert plan.slots <= 4


def test_a_batch_must_divide_over_the_ranks_and_fit_the_set() -> None:
    def world(size: int) -> World:
        return World(0, size, torch.device("cpu"))

    assert steps_per_epoch(Noise(), 8, world(4)) == 5
    assert steps_per_epoch(Noise(), 12, world(1)) == 3
    with pytest.raises(ValueError, match="--batch-size 10 does not divide over 4 ranks: take 8 or 12"):
        steps_per_epoch(Noise(), 10, world(4))
    with pytest.raises(ValueError, match="more than the 40 images"):
        steps_per_epoch(Noise(), 64, world(4))
