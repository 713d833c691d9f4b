"""Features of frozen encoders: one pass over the images, in their order, for any number of encoders."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import Center, View
from data import ImageSet
from parallel import World
from training import stop

from .images import batches, progress


class Pixels(nn.Module):
    """(n, 3, H, W) -> (n, 3 * side * side): the image itself, averaged down; the floor that any encoder must beat.

    Args:
        side: rows and columns kept; images that are smaller stay as they are.
    """

    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Returns the averaged pixels."""
        return F.adaptive_avg_pool2d(x, (min(self.side, x.shape[2]), min(self.side, x.shape[3]))).flatten(1)


@contextmanager
def frozen(*encoders: nn.Module) -> Generator[None]:
    """Within: evaluation mode, no gradients: no weight and no BatchNorm statistic can move. After: as before."""
    training = [module for encoder in encoders for module in encoder.modules() if module.training]
    for encoder in encoders:
        encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True)
class Extractor:
    """How images become features, the same for every set that is evaluated: call it on one.

    Args:
        encoders: by name, each (n, 3, H, W) -> (n, D); frozen here: mode, weights and buffers stay as they are.
        view: how they see an image; a random one draws by the image's place in the set.
        world: the processes that share the work.
        workers: processes of each that decode and render.
        batch_size: images of one forward pass, of no influence but on rounding; None: what suits the device.
    """

    encoders: Mapping[str, nn.Module]
    view: Center | View
    world: World
    workers: int = 0
    batch_size: int | None = None

    @property
    def device(self) -> torch.device:
        """Returns where the encoders run, and heads train."""
        return self.world.device

    @property
    def rows(self) -> int:
        """Returns the images of one forward pass."""
        return self.batch_size or (64 if self.device.type == "cpu" else 256)  # on a CPU 64 took 0.6 of the time of 256

    def __call__(self, image_set: ImageSet) -> tuple[dict[str, Tensor], Tensor]:
        """Returns ({name: features (N, D)}, labels (N,)), each image rendered once for all encoders.

        Raises:
            BadImage: an image cannot be read.
            ValueError: an encoder's output is not (n, D), or not finite.
        """
        return extract_each(self.encoders, image_set, self.view, self.rows, self.device, self.workers)


def extract(
    encoder: nn.Module, image_set: ImageSet, view: Center, batch_size: int, device: torch.device, workers: int
) -> tuple[Tensor, Tensor]:
    """Returns (features (N, D) float32, labels (N,) int64), both on the CPU; row i is image i.

    The encoder is moved to `device`; its mode, weights and buffers stay as they are.

    Raises:
        BadImage: an image cannot be read.
        ValueError: the encoder's output is not (n, D), or not finite.
    """
    features, labels = extract_each({"the encoder": encoder}, image_set, view, batch_size, device, workers)
    return features["the encoder"], labels


def pixels(
    image_set: ImageSet, view: Center, side: int = 16, batch_size: int = 256, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Returns (averaged pixels (N, 3 * side * side), labels (N,)): features without an encoder."""
    return extract(Pixels(side), image_set, view, batch_size, torch.device("cpu"), workers)


def extract_each(
    encoders: Mapping[str, nn.Module],
    image_set: ImageSet,
    view: Center | View,
    batch_size: int,
    device: torch.device,
    workers: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns ({name: features (N, D)}, labels (N,)) as `extract`, each image rendered once for all encoders."""
    num = len(image_set)
    starts = range(0, num, batch_size)
    rows = ((0, range(start, min(start + batch_size, num))) for start in starts)
    features: dict[str, Tensor] = {}
    for encoder in encoders.values():
        encoder.to(device)
    with frozen(*encoders.values()):
        pixel_batches = batches(image_set, view, rows, device, workers)
        for start, x in zip(starts, progress(pixel_batches, math.ceil(num / batch_size), "features"), strict=True):
            stop.heed()
            for name, encoder in encoders.items():
                out = encoder(x)
                if out.ndim != 2:
                    raise ValueError(
                        f"{name} gives {tuple(out.shape)} for {tuple(x.shape)}: a probe needs (n, features)"
                    )
                if name not in features:
                    features[name] = torch.empty(num, out.shape[1])
                features[name][start : start + len(out)] = out.float()
    for name, rows_of in features.items():
        bad = (~rows_of.isfinite().all(dim=1)).nonzero().flatten()
        if len(bad):
            first = image_set.name(int(bad[0]))
            raise ValueError(
                f"{name} gives features that are not finite for {len(bad)} of {num} images (first: {first}): "
                "its weights are broken, or the training diverged"
            )
    return features, torch.as_tensor(image_set.labels, dtype=torch.int64)
