"""The pairs of one source, a shard, a folder or a table, as a few arrays."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .pair_texts import Strings, compact

NOWHERE = np.zeros(0, dtype=np.int64)


class Row(NamedTuple):
    """A pair as a source finds it."""

    name: bytes  # of the image: a path under the source's
    captions: list[bytes]
    offset: int = 0  # of the image in a shard, bytes
    size: int = 0


class Skipped(NamedTuple):
    """What was left out of a set."""

    reason: str
    path: bytes
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """The pairs of one source."""

    path: Path  # the shard; or the folder that names are relative to
    names: Strings  # (n,) images
    captions: Strings  # (m,)
    first: np.ndarray  # (n + 1,) position of each image's first caption
    offsets: np.ndarray  # (n,) int64, of images in a shard; empty for files
    sizes: np.ndarray  # (n,), bytes
    skipped: tuple[Skipped, ...]
    stamp: tuple[int, int] | None = None  # of a shard: what `stamp_of` said when it was read

    @classmethod
    def of(
        cls, path: Path, rows: Iterable[Row], skipped: Iterable[Skipped], stamp: tuple[int, int] | None = None
    ) -> Part:
        """Returns `rows` as a part; of a shard where it has a stamp."""
        rows = list(rows)
        part = cls.of_files(
            path,
            Strings.of(row.name for row in rows),
            Strings.of(caption for row in rows for caption in row.captions),
            np.array([len(row.captions) for row in rows], dtype=np.int64),
            skipped,
        )
        if stamp is None:
            return part
        offsets = np.array([row.offset for row in rows], dtype=np.int64)
        sizes = compact(np.array([row.size for row in rows], dtype=np.int64))
        return dataclasses.replace(part, offsets=offsets, sizes=sizes, stamp=stamp)

    @classmethod
    def of_files(
        cls, folder: Path, names: Strings, captions: Strings, counts: np.ndarray, skipped: Iterable[Skipped]
    ) -> Part:
        """Returns image files and their captions as a part.

        Args:
            counts: captions of each image, (n,).
        """
        first = compact(np.concatenate([[0], np.cumsum(counts)]))
        return cls(folder, names, captions, first, NOWHERE, NOWHERE, tuple(skipped))

    def __len__(self) -> int:
        return len(self.names)

    def texts(self, index: int) -> list[bytes]:
        """Returns the captions of an image."""
        return [self.captions[i] for i in range(int(self.first[index]), int(self.first[index + 1]))]

    def where(self, path: bytes) -> str:
        """Returns what messages call a path in it; bytes that are not UTF-8 are escaped."""
        shown = path.decode("utf-8", "backslashreplace")
        return f"{self.path}:{shown}" if self.stamp else str(self.path / shown)

    def moved(self, path: Path) -> Part:
        """Returns the same samples of a copy of the shard."""
        return dataclasses.replace(self, path=path, stamp=stamp_of(path.stat()))

    def select(self, chosen: np.ndarray, skipped: Iterable[Skipped]) -> Part:
        """Returns the pairs where `chosen` (n,) is true."""
        if chosen.all():
            return dataclasses.replace(self, skipped=tuple(skipped))
        counts = np.diff(self.first.astype(np.int64))
        return dataclasses.replace(
            self,
            names=self.names.take(chosen),
            captions=self.captions.take(np.repeat(chosen, counts)),
            first=compact(np.concatenate([[0], np.cumsum(counts[chosen])])),
            offsets=self.offsets[chosen] if self.stamp else self.offsets,
            sizes=self.sizes[chosen] if self.stamp else self.sizes,
            skipped=tuple(skipped),
        )


def stamp_of(status: os.stat_result) -> tuple[int, int]:
    """Returns (size in bytes, time of the last change in ns): a file that differs in neither is taken as unchanged."""
    return status.st_size, status.st_mtime_ns
