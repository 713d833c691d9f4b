"""Batches of pixels for a frozen encoder: rendered by workers, normalised on the device, in the order asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from augmentations import Center, View, crop, normalize, render, render_center, sample_random
from data import BadImage, ImageSet
from training.stop import in_worker

LINE_EVERY_S = 30  # where there is no terminal

Rows = tuple[int, Sequence[int] | np.ndarray]  # (epoch, samples): one batch
T = TypeVar("T")


class _Rendered(Dataset[tuple[Tensor, str | None]]):
    """Item (epoch, samples) is those samples as uint8 (n, 3, S, S), or what is wrong with the first unreadable one."""

    def __init__(self, images: ImageSet, view: View | Center, seed: int) -> None:
        self.images, self.view, self.seed = images, view, seed

    def __getitem__(self, index: Rows) -> tuple[Tensor, str | None]:
        epoch, samples = index
        pixels = torch.empty(len(samples), 3, self.view.size, self.view.size, dtype=torch.uint8)
        try:
            for row, sample in enumerate(samples):
                pixels[row] = self._render(epoch, int(sample))
        except BadImage as bad:
            return pixels, str(bad)
        return pixels, None

    def _render(self, epoch: int, sample: int) -> Tensor:
        if isinstance(self.view, View) and only_crops(self.view):
            pixels = self.images.pixels(sample)
            return crop(pixels, self.view.draw(sample_random(self.seed, epoch, sample, 0), *pixels.shape[1:]))
        image = self.images.image(sample)
        if isinstance(self.view, Center):
            short = min(image.size)
            if self.view.resize is None and short < self.view.size:
                raise BadImage(
                    f"{self.images.name(sample)}: {image.width} x {image.height} pixels are too few for the view's "
                    f"centre of {self.view.size}: give the view a resize"
                )
            return render_center(image, self.view)
        drawn = self.view.draw(sample_random(self.seed, epoch, sample, 0), image.height, image.width)
        return render(image, drawn)


def only_crops(view: View) -> bool:
    """Returns whether a view is done once it is cropped and flipped, as those of linear probes are: the faster way."""
    return view.jitter == view.gray == view.blur == view.solarize == view.turn == 0


def batches(
    images: ImageSet, view: View | Center, rows: Iterable[Rows], device: torch.device, workers: int, seed: int = 0
) -> Generator[Tensor]:
    """Yields each batch of `rows`, (n, 3, S, S) float32, normalised, on `device`. Arguments and errors: `rendered`."""
    for pixels in rendered(images, view, rows, workers, seed, pin=device.type == "cuda"):
        x = normalize(pixels.to(device, non_blocking=True), view.mean, view.std)
        yield x.contiguous(memory_format=torch.channels_last)  # halves the time of a ResNet on a CPU


def rendered(
    images: ImageSet, view: View | Center, rows: Iterable[Rows], workers: int, seed: int = 0, pin: bool = False
) -> Generator[Tensor]:
    """Yields each batch of `rows`, (n, 3, S, S) uint8, on the host.

    A `Center` draws nothing; a `View` draws from (seed, epoch, sample), so workers do not change what is seen. One that
    only crops is executed as pretraining's fast views are, others by Pillow.

    Args:
        rows: (epoch, samples) of every batch, in order; a generator will do: one set of workers serves many epochs.
        workers: processes that decode and render; 0 does it in this one.
        pin: for a copy to a GPU that nobody waits for.

    Raises:
        BadImage: an image cannot be read or is smaller than the view; the message names it.
    """
    loader = DataLoader(
        _Rendered(images, view, seed),
        batch_size=None,
        sampler=rows,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
        worker_init_fn=in_worker,
    )
    for pixels, error in loader:
        if error:
            raise BadImage(error)
        yield pixels


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items`, with a live line on a terminal, else a plain one every half minute: none for short ones."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, delay=1)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            left = (now - start) / done * (total - done)
            print(f"{what}: {done}/{total} batches, {left / 60:.1f} min left", file=sys.stderr, flush=True)
