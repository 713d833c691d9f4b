"""The input path: this rank's batch of every step, made part by part in worker processes, ready on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from parallel import World

from .ahead import Copy, finished, one_ahead
from .batches import Loaded, Made, StepBatches, loaded
from .pairs import PairSet
from .resident import check_resident
from .ring import Ring
from .sets import Captioned, ImageSet
from .stage import shards_of

PART = 64  # rows that a worker makes at a time, at most; half of that at least, where the batch has so many
HELD = 2  # batches that stay as they are for the one who reads: the newest and the one before


class Plan(NamedTuple):
    """How a batch is made: in how many parts, how many of them each worker has before it, and in how many slots."""

    parts: int
    prefetch: int
    slots: int


def plan(rows: int, workers: int) -> Plan:
    """Returns how batches of `rows` rows are made by `workers` processes.

    A batch is made in parts so that all workers make the first one together, and so that a large one needs few slots.

    Under way are at least one whole batch while another is used, and at least two parts a worker.

    torch's DataLoader has A = prefetch * workers parts under way, and sends out another whenever it hands one over.
    Parts are numbered on from batch to batch: when the last of batch s, (s + 1) * parts - 1, is handed over, all up to
    (s + 1) * parts - 1 + A may be written to, which are of batches up to s + ceil(A / parts). With HELD slots more than
    that ceiling, batches s and s - 1 stay untouched until batch s + 1 is asked for.
    """
    parts = max(math.ceil(rows / PART), min(workers, rows // (PART // 2)), 1)
    prefetch = max(2, math.ceil(parts / workers)) if workers else 0
    return Plan(parts, prefetch, HELD + math.ceil(prefetch * workers / parts))


class Loader:
    """The batches of steps start to stop - 1 in order, made ahead of their use; the same for any number of workers.

    On a GPU a batch crosses as whole levels and is finished there; the next is copied while one is computed. On a CPU
    the workers finish it too, and nothing is copied: its memory is used again when the next but one is asked for.

    Args:
        workers: processes that decode and crop; 0 does it in this one. One DataLoader serves the whole run, so they
            start once.
        device: where the batches are wanted; None: as the host makes them for a GPU, in the ring.
        channels_last: memory layout of the finished views.
        compiled: finish them on a GPU by compiled code.
        on_worker_start: called in each worker first (where signals are set up).
    """

    def __init__(
        self,
        batches: StepBatches,
        start: int,
        stop: int,
        workers: int,
        device: torch.device | None,
        channels_last: bool = False,
        compiled: bool = False,
        on_worker_start: Callable[[int], None] | None = None,
    ) -> None:
        self.batches, self.start, self.stop, self.workers = batches, start, stop, workers
        self.device, self.channels_last, self.compiled = device, channels_last, compiled
        self.on_worker_start = on_worker_start
        rows = batches.rows(batches.batch_size // batches.world, device="meta")
        self.plan = plan(len(rows.index), workers)
        self.is_finished = device is not None and device.type == "cpu"
        if self.is_finished:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            views = tuple(view.to(torch.float32, memory_format=layout) for view in rows.views)
            rows = rows._replace(views=views, rest=())
        self.ring = Ring(rows, self.plan.slots)

    def __iter__(self) -> Iterator[Loaded]:
        """Starts the workers, at once, and returns the batches."""
        parts = iter(
            DataLoader(
                _Parts(self),
                batch_size=None,
                sampler=range(self.start * self.plan.parts, self.stop * self.plan.parts),
                num_workers=self.workers,
                multiprocessing_context="fork" if self.workers else None,
                worker_init_fn=self.on_worker_start,
                prefetch_factor=self.plan.prefetch or None,
            )
        )
        if self.device is None or self.device.type != "cuda":
            return self._from_host(parts)
        self.ring.pin(self.device)  # after the fork: workers need not know
        return self._on_gpu(self._from_host(parts), self.device)

    def __str__(self) -> str:
        return f"batches in {self.ring}"

    def _from_host(self, parts: Iterator[Made]) -> Iterator[Loaded]:
        for step in range(self.start, self.stop):
            made = [next(parts) for _ in range(self.plan.parts)]
            yield loaded(self.ring[step], made)

    def _on_gpu(self, host: Iterator[Loaded], device: torch.device) -> Iterator[Loaded]:
        side = torch.cuda.Stream(device)
        for batch in one_ahead(host, lambda batch: Copy(batch, device, side)):
            batch.batch = finished(batch, self.batches.views, self.channels_last, self.compiled)
            yield batch


class _Parts(Dataset[Made]):
    """Item `step * parts + part` is that part of the batch of `step`, made into its slot of the ring."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getitem__(self, index: int) -> Made:
        batches, parts = self._loader.batches, self._loader.plan.parts
        step, part = divmod(index, parts)
        epoch, samples = batches.samples(step)
        begin, end = (len(samples) * number // parts for number in (part, part + 1))
        slot = self._loader.ring[step].part(begin, end)
        if not self._loader.is_finished:
            return batches.fill(samples[begin:end], epoch, slot)
        rows = batches.rows(end - begin, torch.contiguous_format)
        made = batches.fill(samples[begin:end], epoch, rows)
        done = finished(loaded(rows, [made]), batches.views, self._loader.channels_last)
        memory = (*slot.views, slot.index, slot.label)
        for into, found in zip(memory, (*done.views, done.index, done.label), strict=True):
            into.copy_(found)
        return made


def steps_per_epoch(images: ImageSet, batch_size: int, world: World) -> int:
    """Returns the whole batches in one pass over the set.

    Raises:
        ValueError: the batch does not divide over the ranks, or is larger than the set.
    """
    if batch_size < 1 or batch_size % world.size:
        low = batch_size - batch_size % world.size
        near = f"{low or world.size} or {low + world.size}"
        raise ValueError(f"--batch-size {batch_size} does not divide over {world.size} ranks: take {near}")
    if batch_size > len(images):
        raise ValueError(f"--batch-size {batch_size} is more than the {len(images)} images of the training set")
    return len(images) // batch_size


def left_out(images: ImageSet) -> dict[str, tuple[int, list[str]]]:
    """Returns what the set could not use and left out: by reason how many, and the first few; {} for most sets."""
    if not isinstance(images, PairSet):
        return {}
    return {reason: (count, images.examples[reason]) for reason, count in images.skipped.items()}


def open_images(recipe: Any, place: Any, world: World) -> tuple[ImageSet, int]:
    """Returns (the training set, steps in an epoch) of a `training.recipe.Recipe` at a `training.command.Place`.

    Raises:
        ValueError: images that are not there, a batch that does not divide over the ranks, a precision that the
            device does not have, captions that are wanted and missing, or files that --stage does not copy.
    """
    if recipe.precision == "fp16" and world.device.type != "cuda":
        raise ValueError("precision fp16 needs a GPU: take --precision bf16 or fp32 on a CPU")
    if recipe.tokenizer:
        recipe.tokenizer.encode(["a caption"])  # a tokenizer that is not installed is better found now, too
    images = recipe.data.open(place.data, "train")
    if place.stage:
        shards_of(images, place.data)  # refused now, if it has to be
    if place.resident:
        check_resident(recipe.views, place.views, recipe.tokenizer is not None)
    if recipe.tokenizer and not isinstance(images, Captioned):
        raise ValueError(f"--data {place.data}: images without captions, which this recipe needs")
    if place.probe_every and len(images.classes) < 2:
        raise ValueError(f"--probe-every needs images with classes, and these are {images.classes[0]}: leave it out")
    if place.probe_every or (recipe.evaluate and place.evaluate):
        recipe.data.open(place.data, "test")  # a missing test split is better found now than after days
    steps = steps_per_epoch(images, recipe.batch_size, world)
    rows = recipe.batch_size // world.size
    if rows % place.chunks:
        raise ValueError(f"--chunks {place.chunks} does not divide the {rows} rows of a rank")
    if (recipe.warmup_steps or 0) > recipe.epochs * steps:
        raise ValueError(
            f"--warmup-steps {recipe.warmup_steps} is more than the run's {recipe.epochs * steps} steps: take a tenth"
        )
    return images, steps
