"""This rank's batch of any step, as the host makes it: pixels in whole levels, and what is left to do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from augmentations import REST, Rest, View, crop, render, rest_of, sample_random
from objectives import Batch, Text

from .captions import Tokenizer, draw_caption, encode, join
from .images import BadImage
from .order import batch_samples
from .sets import Captioned, ImageSet

Execution = Literal["reference", "fast"]


class Rows(NamedTuple):
    """Memory for n rows of a batch.

    views: V tensors (n, 3, S, S): uint8, or float32 where they are finished.
    rest: V tensors (n, REST) float32, what `crop` leaves to do; none where nothing is left.
    index, label: (n,) int64.
    """

    views: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]
    index: Tensor
    label: Tensor

    def part(self, begin: int, end: int) -> Rows:
        """Returns rows begin to end - 1 of the same memory."""
        views, rest = (tuple(x[begin:end] for x in tensors) for tensors in (self.views, self.rest))
        return Rows(views, rest, self.index[begin:end], self.label[begin:end])


@dataclass
class Made:
    """What a batch, or a part of one, is beside its rows: captions, and what went wrong on the way."""

    replaced: list[str] = field(default_factory=list)  # images that could not be read, one message each
    error: str | None = None  # the first unreadable image, where none may be replaced
    captions: list[str] = field(default_factory=list)  # as drawn, where there is a tokenizer
    # The same as `Text`, but arrays: those travel within a message, where each tensor takes a file and a call back.
    text: tuple[np.ndarray, np.ndarray] | None = None


@dataclass
class Loaded:
    """A batch, and what went wrong on the way to it. Where there is an error, its rows are not all there."""

    batch: Batch
    rest: tuple[Rest, ...]  # what is left to do to each view, where it is not finished
    replaced: list[str]
    error: str | None
    captions: list[str]


class StepBatches:
    """Item `step` is this rank's batch of that step: pixels, order and views are functions of (seed, step, rank) alone.

    Args:
        images: the training set.
        views: the distribution of each of the V views.
        batch_size: rows of the global batch.
        skip_bad_images: replace an unreadable image by the next readable one of the set, instead of reporting an error.
        tokenizer: makes tokens of one caption of each image, drawn by the sample's own seed; None: images only.
        execution: "fast" crops and leaves colours and blur to the device; "reference": Pillow makes the whole view.
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
        execution: Execution = "fast",
    ) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.skip_bad_images = skip_bad_images
        self.tokenizer = tokenizer
        self.execution: Execution = execution

    def __getitem__(self, step: int) -> Loaded:
        epoch, samples = self.samples(step)
        return self.render(samples, epoch)

    def samples(self, step: int) -> tuple[int, np.ndarray]:
        """Returns (epoch, the samples of this rank at `step`)."""
        return batch_samples(self.seed, step, self.rank, self.world, self.batch_size, len(self.images))

    def rows(self, count: int, layout: torch.memory_format = torch.channels_last, device: str = "cpu") -> Rows:
        """Returns memory for `count` rows as `fill` makes them; on the device "meta": the plan of it.

        layout: channels_last takes the crops as they come; contiguous_format is what a CPU is faster to finish.
        """
        shapes = [(count, 3, view.size, view.size) for view in self.views]
        views = tuple(torch.empty(s, dtype=torch.uint8, device=device, memory_format=layout) for s in shapes)
        rest = tuple(torch.empty(count, REST, device=device) for _ in self.views) if self.execution == "fast" else ()
        index, label = (torch.empty(count, dtype=torch.int64, device=device) for _ in range(2))
        return Rows(views, rest, index, label)

    def render(self, samples: np.ndarray, epoch: int) -> Loaded:
        """Returns the views of `samples` as they are drawn in `epoch`, in memory of their own."""
        rows = self.rows(len(samples))
        return loaded(rows, [self.fill(samples, epoch, rows)])

    def fill(self, samples: np.ndarray, epoch: int, rows: Rows) -> Made:
        """Writes the views of `samples` as they are drawn in `epoch`, up to the first error if there is one."""
        made = Made()
        used = samples.copy()
        rest: list[list[list[float]]] = [[] for _ in rows.rest]
        for row, sample in enumerate(samples):
            found = self._read(int(sample), made)
            if found is None:
                made.error = made.replaced[0]
                return made
            used[row], image = found
            for number, view in enumerate(self.views):
                random = sample_random(self.seed, epoch, int(used[row]), number)
                if isinstance(image, Tensor):
                    drawn = view.draw(random, image.shape[1], image.shape[2])
                    rows.views[number][row] = crop(image, drawn)
                    rest[number].append(rest_of(drawn))
                else:
                    drawn = view.draw(random, image.height, image.width)
                    rows.views[number][row] = render(image, drawn)
        for memory, numbers in zip(rows.rest, rest, strict=True):
            memory.copy_(torch.tensor(numbers))
        rows.index.copy_(torch.from_numpy(used))
        rows.label.copy_(torch.from_numpy(self.images.labels[used]))
        if self.tokenizer:
            assert isinstance(self.images, Captioned)
            made.captions = [draw_caption(self.images, self.seed, epoch, int(sample)) for sample in used]
            tokens, group = encode(self.tokenizer, made.captions)
            made.text = tokens.numpy(), group.numpy()
        return made

    def _read(self, sample: int, made: Made) -> tuple[int, Tensor | Image.Image] | None:
        """Returns (position, image) of the sample or, where that may be, of the next one that can be read."""
        for attempt in range(len(self.images) if self.skip_bad_images else 1):
            index = (sample + attempt) % len(self.images)
            try:
                return index, self.images.pixels(index) if self.execution == "fast" else self.images.image(index)
            except BadImage as bad:
                made.replaced.append(str(bad))
        return None


def loaded(rows: Rows, parts: Sequence[Made]) -> Loaded:
    """Returns the batch that was made in parts, in their order: the same as in one."""
    replaced: list[str] = []
    for made in parts:
        replaced += made.replaced
        if made.error:
            return Loaded(Batch(rows.views, rows.index, rows.label), (), replaced, replaced[0], [])
    captions = [caption for made in parts for caption in made.captions]
    texts = [Text(*map(torch.from_numpy, made.text)) for made in parts if made.text]
    batch = Batch(rows.views, rows.index, rows.label, join(texts) if texts else None)
    return Loaded(batch, tuple(Rest.of(numbers) for numbers in rows.rest), replaced, None, captions)
