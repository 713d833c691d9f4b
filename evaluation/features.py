"""Features of frozen encoders: one pass over the images, shared by all ranks, for any number of encoders."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import Center, View
from data import ImageSet
from parallel import World
from training import stop

from .feature_cache import FeatureCache, digest_of, mapped, tensors_of
from .fingerprint import fingerprint
from .images import batches, progress

ROWS = 2048  # images that one rank computes, and that are kept, together: of no influence on their features
ENDS = (ValueError, stop.Stopped)  # what ends all ranks, wherever it is raised


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


@contextmanager
def unchanged(encoders: Mapping[str, nn.Module]) -> Generator[None]:
    """Within, the encoders may be used, not moved: afterwards every parameter and buffer is what it was, bit by bit.

    Raises:
        RuntimeError: one is not, so what was evaluated was no frozen encoder.
    """
    before = {name: tensors_of(encoder) for name, encoder in encoders.items()}
    yield
    for name, encoder in encoders.items():
        after = tensors_of(encoder)
        changed = [key for key in before[name] | after if before[name].get(key) != after.get(key)]
        if changed:
            raise RuntimeError(f"{name} was changed while it was evaluated: {', '.join(changed[:3])}")


@dataclass(frozen=True)
class Extractor:
    """How images become features, the same for every set that is evaluated: call it on one.

    Args:
        encoders: by name, each (n, 3, H, W) -> (n, D); frozen here: mode, weights and buffers stay as they are.
        view: how they see an image; a random one draws by the image's place in the set.
        world: the processes that share the work.
        workers: processes of each that decode and render.
        batch_size: images of one forward pass, of no influence but on rounding; None: what suits the device.
        folder: where features are kept, on a disk that all ranks see; None: in every rank's memory, and only there.
        dtype: what features are rounded to; float32 keeps them as they are.
    """

    encoders: Mapping[str, nn.Module]
    view: Center | View
    world: World
    workers: int = 0
    batch_size: int | None = None
    folder: Path | None = None
    dtype: torch.dtype = torch.float16

    @property
    def device(self) -> torch.device:
        """Returns where the encoders run, and heads train."""
        return self.world.device

    @property
    def rows(self) -> int:
        """Returns the images of one forward pass."""
        return self.batch_size or (64 if self.device.type == "cpu" else 256)  # on a CPU 64 took 0.6 of the time of 256

    def __call__(self, image_set: ImageSet) -> tuple[dict[str, Tensor], Tensor]:
        """Returns ({name: features (N, D)}, labels (N,)) on the CPU of every rank; row i is image i.

        Each image is rendered once for all encoders, by one rank. Features are float16, or float32 where one of them
        lies beyond float16's range; the same to the bit whether they are computed, kept on disk or come from there.

        Raises:
            BadImage: an image cannot be read. Stopped: a signal came; what is kept on disk goes on from there.
            ValueError: an encoder's output is not (n, D), or not finite; features that cannot be kept.
        """
        blocks = [range(start, min(start + ROWS, len(image_set))) for start in range(0, len(image_set), ROWS)]
        features = (self._in_memory if self.folder is None else self._on_disk)(image_set, blocks)
        return features, torch.as_tensor(image_set.labels, dtype=torch.int64)

    def _in_memory(self, image_set: ImageSet, blocks: Sequence[range]) -> dict[str, Tensor]:
        world = self.world
        own: list[dict[str, Tensor]] = []
        with world.together(*ENDS):
            own += [found for _, found in self._compute(self.encoders, image_set, blocks[world.rank :: world.size])]
        own.reverse()
        features: dict[str, Tensor] = {}
        for first in range(0, len(blocks), world.size):
            of_ranks = world.collect(own.pop() if own else None)
            for block, found in zip(blocks[first : first + world.size], of_ranks, strict=False):
                for name, rows in found.items():
                    if name not in features:
                        features[name] = torch.empty(len(image_set), rows.shape[1], dtype=rows.dtype)
                    features[name] = features[name].to(torch.promote_types(features[name].dtype, rows.dtype))
                    features[name][block.start : block.stop] = rows
        return features

    def _on_disk(self, image_set: ImageSet, blocks: Sequence[range]) -> dict[str, Tensor]:
        assert self.folder is not None
        world, images = self.world, fingerprint(image_set, self.world)
        caches = {
            name: FeatureCache(
                self.folder,
                {"encoder": digest_of(encoder), "view": repr(self.view), "images": images, "dtype": str(self.dtype)},
            )
            for name, encoder in self.encoders.items()
        }
        whole: dict[str, Path | None] = {}
        done: set[int] = set()
        with world.together(*ENDS):
            if world.is_main:
                whole = {name: cache.whole() for name, cache in caches.items()}
                begun = [cache for name, cache in caches.items() if whole[name] is None]
                for cache in begun:
                    cache.begin()
                done = set.intersection(*(set(cache.parts()) for cache in begun)) if begun else set()
        whole, done = world.from_main((whole, done))
        missing = {name: self.encoders[name] for name in caches if whole[name] is None}
        if missing:
            left = [block for block in blocks if block.start not in done]
            with world.together(*ENDS):
                for block, found in self._compute(missing, image_set, left[world.rank :: world.size]):
                    for name, rows in found.items():
                        caches[name].add(block.start, rows)
            with world.together(*ENDS):
                if world.is_main:
                    whole |= {name: caches[name].finish([block.start for block in blocks]) for name in missing}
            whole = world.from_main(whole)
        return {name: mapped(path) for name, path in whole.items() if path is not None}

    def _compute(
        self, encoders: Mapping[str, nn.Module], image_set: ImageSet, blocks: Sequence[range]
    ) -> Iterator[tuple[range, dict[str, Tensor]]]:
        """Yields each block of images and its features, {name: (n, D)}, rounded, on the CPU."""
        passes = [
            range(start, min(start + self.rows, block.stop))
            for block in blocks
            for start in range(block.start, block.stop, self.rows)
        ]
        for encoder in encoders.values():
            encoder.to(self.device)
        with frozen(*encoders.values()):
            pixels = batches(image_set, self.view, ((0, rows) for rows in passes), self.device, self.workers)
            seen = zip(passes, progress(pixels, len(passes), "features"), strict=True)
            for block in blocks:
                found: dict[str, list[Tensor]] = {name: [] for name in encoders}
                for _ in range(math.ceil(len(block) / self.rows)):
                    rows, x = next(seen)
                    stop.heed()
                    for name, encoder in encoders.items():
                        found[name].append(_checked(name, encoder(x), x, image_set, rows))
                yield block, {name: rounded(torch.cat(parts), self.dtype) for name, parts in found.items()}


def _checked(name: str, out: Tensor, x: Tensor, image_set: ImageSet, rows: range) -> Tensor:
    """Returns an encoder's output for the images of these rows, float32 on the CPU, if a probe can use it."""
    if out.ndim != 2:
        raise ValueError(f"{name} gives {tuple(out.shape)} for {tuple(x.shape)}: a probe needs (n, features)")
    out = out.float().cpu()
    bad = (~out.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{name} gives features that are not finite, for {len(bad)} of {len(rows)} images in a row (the first is "
            f"{image_set.name(rows[int(bad[0])])}): its weights are broken, or the training diverged"
        )
    return out


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `x` in that type; in its own if a value is beyond the type's range, with the others rounded all the same.

    So what a value becomes does not depend on the others.
    """
    y = x.to(dtype)
    return y if bool(y.isfinite().all()) else torch.where(y.isfinite(), y.to(x.dtype), x)
