"""Indexes of shards, kept between runs: a shard is walked through once, not at every start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import cache
from .cache import cache_folder as cache_folder  # its readers know it from here
from .pair_part import Part, Skipped
from .pair_texts import Strings

FORMAT = 2  # one more whenever the index of an unchanged shard would be another
KIND = "pairs"


def load(folder: Path | None, shard: Path, reading: str, stamp: tuple[int, int]) -> Part | None:
    """Returns the index of a shard that has this stamp, or None where none is kept that fits.

    Args:
        reading: what else decides what the index holds.
    """
    kept = cache.load(folder, KIND, _key(shard, reading))
    if kept is None or kept[0]["state"] != [FORMAT, *stamp]:
        return None
    about, (name_ends, caption_ends, first, offsets, sizes, names, captions) = kept
    return Part(
        shard,
        Strings(names.tobytes(), name_ends),
        Strings(captions.tobytes(), caption_ends),
        first,
        offsets,
        sizes,
        tuple(Skipped(reason, path.encode("latin1"), detail) for reason, path, detail in about["skipped"]),
        stamp,
    )


def save(folder: Path | None, reading: str, part: Part) -> None:
    """Keeps the index of a shard, whole or not at all: several ranks may do so at once. A failure is no error."""
    if part.stamp is None:
        return
    blocks = [np.frombuffer(strings.block, dtype=np.uint8) for strings in (part.names, part.captions)]
    arrays = [part.names.ends, part.captions.ends, part.first, part.offsets, part.sizes, *blocks]
    skipped = [(reason, path.decode("latin1"), detail) for reason, path, detail in part.skipped]
    about = {"state": [FORMAT, *part.stamp], "skipped": skipped}
    cache.save(folder, KIND, _key(part.path, reading), about, arrays)


def _key(shard: Path, reading: str) -> str:
    return f"{cache.shown(shard)}\n{reading}"
