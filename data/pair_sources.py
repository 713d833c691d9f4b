"""What `--data` names: shards, folders and tables, and the split that is asked for in them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import pair_cache
from .pair_folder import scan_folder
from .pair_naming import JSON
from .pair_part import Part, stamp_of
from .pair_shards import index_shard

BETWEEN = "::"
TAR = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
SHOWN = 8  # names in a message
THREADS = 8  # a shard on a network disk is waited for, not computed
LINE_EVERY_S = 30  # where there is no terminal


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Args:
        caption: field of .json captions, column of a table. None: .txt, else the first usual field or column.
        cache: folder for the indexes of shards; None keeps none.
    """

    caption: str | None
    cache: Path | None

    @property
    def suffixes(self) -> tuple[bytes, ...]:
        """Returns the suffixes of captions, the preferred first."""
        return (b"txt", JSON) if self.caption is None else (JSON,)


def find_parts(where: Path, split: str | None, reading: Reading) -> list[Part]:
    """Returns the pairs of every source that `where` names, in that order: `A.tar::B/{000..331}.tar::FOLDER`.

    Raises:
        ValueError: a source that is not there or is of no known form, a damaged tar, a split that a source lacks.
    """
    sources = [str(where)] if where.exists() else str(where).split(BETWEEN)
    return [part for source in sources for part in _source(source, split, reading)]


def _source(source: str, split: str | None, reading: Reading) -> list[Part]:
    path = Path(source)
    if path.is_dir():
        return _folder(path, split, reading)
    files = [path] if path.exists() else [Path(name) for name in expand(source)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        if len(files) == 1:
            raise ValueError(f"{source}: no such file or folder")
        raise ValueError(f"{source}: {len(missing)} of {len(files)} files are missing: {_some(missing)}")
    for file in files:
        _check_form(file)
    return choose(index_shards(files, reading), split, source)


def _check_form(file: Path) -> None:
    name = file.name.lower()
    if name.endswith((".tar.gz", ".tgz")):
        raise ValueError(
            f"{file} is compressed, so no image can be read without all before it: gunzip -k {file} makes a .tar, "
            "which is read as it is"
        )
    if name.endswith(PACKED):
        raise ValueError(f"{file} is compressed, so no image can be read without all before it: unpack it")
    if not name.endswith(TAR):
        raise ValueError(f"{file}: image-text pairs are read from a .tar, or a folder")


def _folder(folder: Path, split: str | None, reading: Reading) -> list[Part]:
    if split is None:
        if shards := _shards(folder):
            return index_shards(shards, reading)
        return [scan_folder(folder, reading.caption, reading.suffixes)]
    inside = [path for path in (folder / split, *sorted(folder.glob(f"*/{split}"))) if path.is_dir()]
    if inside and inside[0] == folder / split:
        return _folder(inside[0], None, reading)
    if len(inside) > 1:
        raise ValueError(f"{folder}: split {split!r} is in several of its folders: {_some(inside)}. Name one of them")
    if inside:
        return _folder(inside[0], None, reading)
    if shards := _shards(folder):
        return choose(index_shards(shards, reading), split, str(folder))
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise ValueError(f"{folder}: no folder of the split {split!r}; it holds {_some(folders) or 'no folders'}")


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(TAR) and path.is_file())


def index_shards(shards: list[Path], reading: Reading) -> list[Part]:
    """Returns the pairs of each shard, from the cache where it has them. Raises ValueError for a damaged one."""
    key = f"caption={reading.caption}"

    def index(shard: Path) -> Part:
        try:
            found = pair_cache.load(reading.cache, shard, key, stamp_of(shard.stat()))
            if found is None:
                found = index_shard(shard, reading.caption, reading.suffixes)
                pair_cache.save(reading.cache, key, found)
        except OSError as error:
            raise ValueError(f"{shard}: {error.strerror or error}") from None
        return found

    with ThreadPoolExecutor(min(THREADS, len(shards))) as pool:
        return list(progress(pool.map(index, shards), len(shards), "indexing shards"))


def choose(parts: list[Part], split: str | None, source: str) -> list[Part]:
    """Returns the pairs of one source's shards that stand in the split's folder, the first or second of their path.

    Raises:
        ValueError: none does; the message lists the folders there are.
    """
    if split is None:
        return parts
    for stands in (re.compile(pattern + re.escape(split.encode()) + b"/").match for pattern in (b"", b"[^/]+/")):
        chosen = [np.fromiter(map(bool, map(stands, p.names)), dtype=bool, count=len(p)) for p in parts]
        if any(mask.any() for mask in chosen):
            return [
                part.select(mask, filter(lambda skipped: stands(skipped.path), part.skipped))
                for part, mask in zip(parts, chosen, strict=True)
            ]
    folders = {b"/".join(name.split(b"/")[:-1][:2]) for part in parts for name in part.names} - {b""}
    there = _some(sorted(folder.decode("utf-8", "backslashreplace") for folder in folders))
    remedy = "no folders: leave the split out (None) to take all"
    raise ValueError(f"{source}: no split {split!r}: its images stand in {there or remedy}")


def expand(pattern: str) -> Iterator[str]:
    """Yields the names that braces stand for, as in a shell: `{000..331}` and `{a,b}`, also several."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    start, stop, listed = found.groups()
    values: Iterable[str]
    if listed is not None:
        values = listed.split(",")
    else:
        step = 1 if int(start) <= int(stop) else -1
        padded = any(len(end) > 1 and end.startswith("0") for end in (start, stop))
        width = max(len(start), len(stop)) if padded else 0
        values = (f"{number:0{width}d}" for number in range(int(start), int(stop) + step, step))
    for value in values:
        yield from expand(pattern[: found.start()] + value + pattern[found.end() :])


def progress(items: Iterable[Part], total: int, what: str) -> Iterator[Part]:
    """Yields `items`, with a live line on a terminal, else a plain one every half minute: none for short ones."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, delay=1)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)


def _some(names: Iterable[object]) -> str:
    names = list(map(str, names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
