"""A packed set as labelled images, by position: the shards that `data.pack` wrote, read in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import cache
from .decode import decode
from .images import BadImage, read_image
from .pair_part import Part, Row, stamp_of
from .parts import Parts, index_shards
from .store import AGAIN, NAME, Store, read_store, wrong_with
from .tar_index import FILES, members

READING = "store"


class Packed:
    """A split of a store: sample i is sample i of the folder that it was made from."""

    def __init__(self, root: Path, store: Store, split: str, parts: list[Part]) -> None:
        self.root, self.store = root, store
        self.parts = Parts(parts)
        self.classes = store.splits[split].classes
        self.labels = store.splits[split].label()

    def __len__(self) -> int:
        return len(self.parts)

    def name(self, index: int) -> str:
        """Returns the sample's path, `SHARD.tar:CLASS/NAME`."""
        return self.parts.name(index)

    def image(self, index: int) -> Image.Image:
        """Returns the image as 8-bit RGB. Raises BadImage."""
        return read_image(*self.parts.source(index))

    def pixels(self, index: int) -> Tensor:
        """Returns the image as uint8 (3, H, W). Raises BadImage."""
        if self.store.kind == "raw":
            return of_ppm(*self.parts.source(index))
        return decode(*self.parts.source(index))


def open_packed(root: Path, split: str) -> Packed:
    """Returns one split of the store in a folder.

    Raises:
        ValueError: no such split, a store that is not whole, a shard that is missing, damaged or of another size.
    """
    try:
        store = read_store(root)
        if split not in store.splits:
            raise ValueError(f"{root}: no split {split!r}; this store holds {', '.join(store.splits)}")
        if not store.id:
            raise ValueError(f"{root}: packing has not come to its end: {AGAIN}")
        packing = store.splits[split]
        wrong = [found for shard in packing.shards if (found := wrong_with(root, shard))]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{wrong[0]}{more}. Copy the store again; python -m data.pack --verify {root} checks it all"
            )
        shards = [root / shard.file for shard in packing.shards]
        parts = index_shards(shards, cache.cache_folder(), READING, index_samples)
        for shard, part in zip(packing.shards, parts, strict=True):
            if len(part) != shard.samples:
                raise ValueError(f"{part.path}: {len(part)} samples, {NAME} says {shard.samples}: not its shard")
    except ValueError as error:
        raise ValueError(f"--data {error}") from None
    return Packed(root, store, split, parts)


def index_samples(path: Path) -> Part:
    """Returns every file in a shard, in order. Raises DamagedTarError, OSError."""
    stamp = stamp_of(path.stat())
    rows = [Row(name, [], offset, size) for name, kind, offset, size in members(path) if kind in FILES]
    return Part.of(path, rows, (), stamp)


def store_of(images: object) -> dict[str, Any] | None:
    """Returns what a run's record keeps of the store that holds `images`; None for sets that are not packed."""
    return images.store.described() if isinstance(images, Packed) else None


def to_ppm(image: Image.Image) -> bytes:
    """Returns an RGB image as a binary PPM: a line each of form, width and height, highest value, then the pixels."""
    return b"P6\n%d %d\n255\n" % image.size + image.tobytes()


def of_ppm(data: bytes | Path, name: str) -> Tensor:
    """Returns the pixels of what `to_ppm` wrote, uint8 (3, H, W). Raises BadImage for anything else."""
    assert isinstance(data, bytes)
    header = data[:32].split(b"\n", 3)
    try:
        form, (width, height), highest = header[0], map(int, header[1].split()), header[2]
        start = sum(map(len, header[:3])) + 3
        values = np.frombuffer(data, np.uint8, offset=start).reshape(height, width, 3)
        if (form, highest) != (b"P6", b"255"):
            raise ValueError
    except (ValueError, IndexError):
        raise BadImage(f"{name}: not a PPM as data.pack writes it") from None
    return torch.from_numpy(values.copy()).permute(2, 0, 1)
