"""Samples of several sources by position: where each one's bytes are."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import pair_cache
from .pair_part import Part, stamp_of
from .pair_shards import Shards
from .progress import progress

THREADS = 8  # a shard on a network disk is waited for, not computed


class Parts:
    """The samples of `parts`, one part after another."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.shards = Shards()
        self._starts = list(itertools.accumulate((len(part) for part in self.parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def find(self, index: int) -> tuple[Part, int]:
        """Returns (the part that holds a sample, its position there)."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def name(self, index: int) -> str:
        """Returns what errors call the sample: its path, in a shard `SHARD.tar:PATH`."""
        part, row = self.find(index)
        return part.where(part.names[row])

    def source(self, index: int) -> tuple[bytes | Path, str]:
        """Returns (the sample's file, or its bytes where it is in a shard; its name). Raises BadImage."""
        part, row = self.find(index)
        name = part.where(part.names[row])
        if part.stamp is None:
            return part.path / os.fsdecode(part.names[row]), name
        return self.shards.read(part.path, part.stamp, int(part.offsets[row]), int(part.sizes[row])), name


def index_shards(shards: list[Path], cache: Path | None, reading: str, index: Callable[[Path], Part]) -> list[Part]:
    """Returns the samples of each shard, from the cache where it has them.

    Args:
        cache: its folder; None keeps none.
        reading: what else than the shard decides what `index` returns.

    Raises:
        ValueError: a damaged shard, or one that cannot be read.
    """

    def one(shard: Path) -> Part:
        try:
            found = pair_cache.load(cache, shard, reading, stamp_of(shard.stat()))
            if found is None:
                found = index(shard)
                pair_cache.save(cache, reading, found)
        except OSError as error:
            raise ValueError(f"{shard}: {error.strerror or error}") from None
        return found

    with ThreadPoolExecutor(min(THREADS, len(shards))) as pool:
        return list(progress(pool.map(one, shards), len(shards), "indexing shards"))
