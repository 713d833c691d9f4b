"""Whether a store is what its store.json says, byte for byte."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .packed import index_samples
from .progress import progress
from .store import AGAIN, NAME, Packing, Shard, read_store, wrong_with

THREADS = 4  # hashing needs no lock of Python's


def verify(root: Path) -> int:
    """Prints what is wrong with the store in a folder; returns the exit code, 0 if nothing is, else 1.

    Raises:
        ValueError: no store there, or a store.json that cannot be read.
    """
    if not (root / NAME).is_file():
        raise ValueError(f"{root}: no store: it holds no {NAME}")
    store = read_store(root)
    shards = [shard for split in store.splits.values() for shard in split.shards]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda shard: _wrong(root, shard), shards)
        size = sum(shard.bytes for shard in shards)
        sized = progress(zip(shards, results, strict=True), size, "verifying", lambda pair: pair[0].bytes, "B")
        wrong = [found for _, found in sized if found]
    if store.id != store.whole().id:
        wrong.append(
            f"{root / NAME}: its id is not that of what it lists" if store.id else f"{root}: not whole: {AGAIN}"
        )
    if not wrong:
        wrong = [found for split in store.splits.values() if (found := _misnamed(root, split))]
    for line in wrong:
        print(line)
    if wrong:
        print(f"{root}: damaged, {len(wrong)} faults: copy these files again, or pack into a new folder")
        return 1
    print(
        f"{root}: store {store.id}, {len(shards)} shards, {sum(map(len, store.splits.values()))} images, all as written"
    )
    return 0


def _wrong(root: Path, shard: Shard) -> str | None:
    if found := wrong_with(root, shard):
        return found
    path = root / shard.file
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None if digest == shard.sha256 else f"{path}: its sha256 is {digest}, {NAME} says {shard.sha256}"


def _misnamed(root: Path, split: Packing) -> str | None:
    """Returns where the names in the shards and the labels part, or None."""
    labels = split.label()
    if len(labels) != len(split):
        return f"{root / NAME}: {len(labels)} labels for {len(split)} images"
    position = 0
    for shard in split.shards:
        names = index_samples(root / shard.file).names
        if len(names) != shard.samples:
            return f"{root / shard.file}: {len(names)} images, {NAME} says {shard.samples}"
        for name in names:
            expected = split.classes[labels[position]]
            if not name.startswith(expected.encode(errors="surrogateescape") + b"/"):
                return f"{root / shard.file}: {name!r} stands where an image of {expected} should"
            position += 1
    return None
