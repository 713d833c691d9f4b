"""A whole set held on the device: batches are cut out there, and only numbers cross from the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from augmentations import CROP, REST, Rest, View, crop_batch, crop_of, finish, rest_of, sample_random
from objectives import Batch

from .batches import Loaded, StepBatches
from .images import BadImage
from .progress import progress
from .sets import ImageSet

THREADS = 8  # decoding needs no lock of Python's
ROOM = 0.7  # of the free memory may be taken: the networks come after
PADDING = 2.0  # the padded pixels may be so many times the images' own


class Held(NamedTuple):
    """Images on a device.

    pixels: uint8 (N, 3, L, L), each image in the upper left corner.
    sizes: height and width of each, (N, 2) int64, on the host, where views are drawn.
    """

    pixels: Tensor
    sizes: Tensor

    def __str__(self) -> str:
        count, _, side, _ = self.pixels.shape
        held = f"{count} images of {side} x {side}, {self.pixels.numel() / 1e6:.0f} MB"
        return f"{held}, held on {self.pixels.device}"


def check_resident(views: tuple[View, ...], execution: str, with_captions: bool) -> None:
    """Refuses what cannot be made of a set held on the device, before anything is read.

    Raises:
        ValueError: captions, or views that only the CPU can make.
    """
    if with_captions:
        raise ValueError("--resident holds images, and this recipe wants captions, too: leave it out")
    if execution != "fast":
        raise ValueError(f"--resident cuts views on the device, and --views {execution} makes them by Pillow: take one")
    if any(view.turn for view in views):
        raise ValueError("--resident cannot turn images, as a view of this recipe does: leave it out")


def hold(images: ImageSet, device: torch.device) -> Held:
    """Returns all images of the set on the device.

    Raises:
        ValueError: an image that cannot be read, sizes that differ much, or too little memory, with the numbers.
    """

    def read(index: int) -> Tensor:
        try:
            return images.pixels(index)
        except BadImage as bad:
            raise ValueError(
                f"--resident reads every image: {bad}; data.pack --skip-bad-images leaves such out"
            ) from None

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(progress(pool.map(read, range(len(images))), len(images), "reading images"))
    sizes = torch.tensor([image.shape[1:] for image in found])
    side = int(sizes.max())
    own, padded = 3 * int(sizes.prod(1).sum()), 3 * len(found) * side**2
    remedy = "pack them smaller (python -m data.pack --raw --longest ...), or leave --resident out"
    if padded > PADDING * own:
        raise ValueError(
            f"--resident holds all images as large as the largest, {side} pixels: {padded / 1e9:.2f} GB for "
            f"{own / 1e9:.2f} GB of pixels: {remedy}"
        )
    free = free_bytes(device)
    if padded > ROOM * free:
        raise ValueError(
            f"--resident: {len(found)} images of {side} x {side} take {padded / 1e9:.2f} GB, and {device} has "
            f"{free / 1e9:.2f} GB free, of which {ROOM:.0%} may be taken: {remedy}"
        )
    pixels = torch.zeros(len(found), 3, side, side, dtype=torch.uint8, device=device)
    for row, image in enumerate(found):
        pixels[row, :, : image.shape[1], : image.shape[2]] = image
    return Held(pixels, sizes)


def free_bytes(device: torch.device) -> int:
    """Returns the memory that a device has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Draws(NamedTuple):
    """A batch as the host makes it: which images, and for each of V views the numbers of crop and rest."""

    index: Tensor  # (n,) int64
    label: Tensor  # (n,) int64
    crops: Tensor  # (V, n, CROP) float32
    rest: Tensor  # (V, n, REST) float32


class ResidentLoader:
    """The batches of steps start to stop - 1 in order: the samples, labels and views of `Loader`, for any workers.

    Args as for `Loader`; workers draw numbers, 0 does it in this process.
    """

    def __init__(
        self,
        batches: StepBatches,
        held: Held,
        start: int,
        stop: int,
        workers: int,
        channels_last: bool = False,
        compiled: bool = False,
        on_worker_start: Callable[[int], None] | None = None,
    ) -> None:
        self.batches, self.held, self.start, self.stop, self.workers = batches, held, start, stop, workers
        self.channels_last, self.compiled, self.on_worker_start = channels_last, compiled, on_worker_start

    def __iter__(self) -> Iterator[Loaded]:
        """Starts the workers, at once, and returns the batches."""
        drawn = iter(
            DataLoader(
                _Draws(self.batches, self.held.sizes),
                batch_size=None,
                sampler=range(self.start, self.stop),
                num_workers=self.workers,
                multiprocessing_context="fork" if self.workers else None,
                worker_init_fn=self.on_worker_start,
                pin_memory=self.held.pixels.device.type == "cuda",
            )
        )
        return map(self._make, drawn)

    def __str__(self) -> str:
        return f"batches from {self.held}"

    def _make(self, drawn: Draws) -> Loaded:
        device = self.held.pixels.device
        index, label, crops = (rows.to(device, non_blocking=True) for rows in (drawn.index, drawn.label, drawn.crops))
        images = self.held.pixels[index]
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        views = []
        for view, crop, numbers in zip(self.batches.views, crops, drawn.rest, strict=True):
            pixels = crop_batch(images, crop, view)
            done = finish(pixels, Rest.of(numbers).to(device), view, self.compiled)
            views.append(done.contiguous(memory_format=layout))
        return Loaded(Batch(tuple(views), index, label), (), [], None, [])


class _Draws(Dataset[Draws]):
    """Item `step` is what is drawn for that step."""

    def __init__(self, batches: StepBatches, sizes: Tensor) -> None:
        self._batches, self._sizes = batches, sizes

    def __getitem__(self, index: int) -> Draws:
        epoch, samples = self._batches.samples(index)
        views = self._batches.views
        crops, rest = torch.empty(len(views), len(samples), CROP), torch.empty(len(views), len(samples), REST)
        sizes = self._sizes[samples].tolist()
        for number, view in enumerate(views):
            rows = [
                view.draw(sample_random(self._batches.seed, epoch, int(sample), number), *size)
                for sample, size in zip(samples, sizes, strict=True)
            ]
            crops[number] = torch.tensor([crop_of(row) for row in rows])
            rest[number] = torch.tensor([rest_of(row) for row in rows])
        labels = torch.from_numpy(self._batches.images.labels[samples])
        return Draws(torch.from_numpy(samples.copy()), labels, crops, rest)
