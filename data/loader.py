"""The input path: this rank's batch of every step, made by worker processes, ready as uint8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augmentations import View, normalize, render, sample_random
from objectives import Batch, Text
from parallel import World

from .captions import Tokenizer, draw_caption, encode
from .images import BadImage
from .order import batch_samples
from .pairs import PairSet
from .sets import Captioned, ImageSet
from .stage import shards_of


@dataclass
class Loaded:
    """A batch as the workers make it, and what went wrong on the way."""

    batch: Batch
    replaced: list[str] = field(default_factory=list)  # images that could not be read, one message each
    error: str | None = None  # the first unreadable image, where none may be replaced
    captions: list[str] = field(default_factory=list)  # as drawn, where there is a tokenizer


class StepBatches(Dataset[Loaded]):
    """Item `step` is this rank's batch of that step: pixels, order and views are functions of (seed, step, rank) alone.

    Args:
        images: the training set.
        views: the distribution of each of the V views.
        batch_size: rows of the global batch.
        skip_bad_images: replace an unreadable image by the next readable one of the set, instead of reporting an error.
        tokenizer: makes tokens of one caption of each image, drawn by the sample's own seed; None: images only.
    """

    def __init__(
        self,
        images: ImageSet,
        views: tuple[View, ...],
        seed: int,
        batch_size: int,
        rank: int,
        world: int,
        skip_bad_images: bool,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.skip_bad_images = skip_bad_images
        self.tokenizer = tokenizer

    def __getitem__(self, index: int) -> Loaded:
        step = index
        epoch, samples = batch_samples(self.seed, step, self.rank, self.world, self.batch_size, len(self.images))
        return self.render(samples, epoch)

    def render(self, samples: np.ndarray, epoch: int) -> Loaded:
        """Returns the views of `samples` as they are drawn in `epoch`."""
        pixels = tuple(torch.empty(len(samples), 3, v.size, v.size, dtype=torch.uint8) for v in self.views)
        used = samples.copy()
        replaced: list[str] = []
        error = None
        for row, sample in enumerate(samples):
            image = None
            for attempt in range(len(self.images)):
                used[row] = (int(sample) + attempt) % len(self.images)
                try:
                    image = self.images.image(int(used[row]))
                    break
                except BadImage as bad:
                    replaced.append(str(bad))
                    if not self.skip_bad_images:
                        break
            if image is None:
                error = replaced[0]
                break
            for number, view in enumerate(self.views):
                drawn = view.draw(sample_random(self.seed, epoch, int(used[row]), number), image.height, image.width)
                pixels[number][row] = render(image, drawn)
        labels = torch.from_numpy(self.images.labels[used])
        captions, text = [], None
        if self.tokenizer:
            assert isinstance(self.images, Captioned)
            captions = [draw_caption(self.images, self.seed, epoch, int(sample)) for sample in used]
            text = encode(self.tokenizer, captions)
        return Loaded(Batch(pixels, torch.from_numpy(used), labels, text), replaced, error, captions)


def load(
    dataset: StepBatches,
    start: int,
    stop: int,
    workers: int,
    pin: bool,
    on_worker_start: Callable[[int], None] | None = None,
) -> DataLoader[Loaded]:
    """Returns the batches of steps start to stop - 1, in order, one DataLoader for the whole run: workers start once.

    Args:
        workers: processes that decode and render; 0 does it in this one. The batches are the same for any number.
        pin: put batches into page-locked memory, for copies to a GPU that overlap.
        on_worker_start: called in each worker first (where signals are set up).
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=on_worker_start,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
    )


def to_device(batch: Batch, views: tuple[View, ...], device: torch.device, channels_last: bool) -> Batch:
    """Returns the batch on `device`, its views float32 and normalised (as ToTensor and Normalize do, to the bit)."""

    def place(pixels: Tensor, view: View) -> Tensor:
        x = normalize(pixels.to(device, non_blocking=True), view.mean, view.std)
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    views_on_device = tuple(place(pixels, view) for pixels, view in zip(batch.views, views, strict=True))
    index, label = (rows.to(device, non_blocking=True) for rows in (batch.index, batch.label))
    text = batch.text and Text(*(rows.to(device, non_blocking=True) for rows in batch.text))
    return Batch(views_on_device, index, label, text)


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
    if recipe.tokenizer and not isinstance(images, Captioned):
        raise ValueError(f"--data {place.data}: images without captions, which this recipe needs")
    if recipe.evaluate and place.evaluate:
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
