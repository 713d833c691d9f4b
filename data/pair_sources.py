"""What `--data` names: shards, folders and tables, and the split that is asked for in them."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pair_folder import scan_folder
from .pair_naming import JSON
from .pair_part import Part
from .pair_shards import index_shard
from .pair_table import TABLES, read_table
from .parts import index_shards

BETWEEN = "::"
TAR = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
SHOWN = 8  # names in a message


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Args:
        caption: field of .json captions, column of a table. None: .txt, else the first usual field or column.
        image: column of a table. None: the first usual one.
        max_skipped: share that may be unusable.
        cache: folder for the indexes of shards; None keeps none.
    """

    caption: str | None
    image: str | None
    max_skipped: float
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
    if not source:
        raise ValueError(f"an empty name beside {BETWEEN}")
    path = Path(source)
    if path.is_dir():
        return _folder(path, split, reading)
    files = [path] if path.exists() else [Path(name) for name in expand(source)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        if len(files) == 1:
            raise ValueError(f"{source}: no such file or folder")
        raise ValueError(f"{source}: {len(missing)} of {len(files)} files are missing: {_some(missing)}")
    if len(files) == 1 and path.name.lower().endswith(TABLES):
        return [_table(path, split, reading)]
    for file in files:
        _check_form(file)
    return choose(_index(files, reading), split, source)


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
        raise ValueError(f"{file}: image-text pairs are read from {', '.join((TAR, *TABLES))} files and folders")


def _folder(folder: Path, split: str | None, reading: Reading) -> list[Part]:
    if split is None:
        return _everything(folder, reading)
    inside = [path for path in (folder / split, *sorted(folder.glob(f"*/{glob.escape(split)}"))) if path.is_dir()]
    if inside and inside[0] != folder / split and len(inside) > 1:
        raise ValueError(f"{folder}: split {split!r} is in several of its folders: {_some(inside)}. Name one of them")
    if inside:
        parts = _everything(inside[0], reading)
        if any(map(len, parts)) or not (table := _table_in(inside[0].parent)):
            return parts
        return [_table(table, split, reading)]
    if shards := _shards(folder):
        return choose(_index(shards, reading), split, str(folder))
    tables = [table for place in (folder, *_folders(folder)) if (table := _table_in(place))]
    if len(tables) == 1:
        return [_table(tables[0], split, reading)]
    there = _folders(folder)
    if len(there) == 1:
        there += _folders(there[0])
    names = _some(path.relative_to(folder) for path in there) or "no folders: leave the split out (None) to take all"
    raise ValueError(f"{folder}: no folder of the split {split!r}; it holds {names}")


def _everything(folder: Path, reading: Reading) -> list[Part]:
    """Returns the pairs of a folder: its shards; else its files side by side; else its table."""
    if shards := _shards(folder):
        return _index(shards, reading)
    part = scan_folder(folder, reading.caption, reading.suffixes)
    if not len(part):
        if table := _table_in(folder):
            return [_table(table, None, reading)]
        for file in sorted(folder.iterdir()):
            if file.name.lower().endswith(PACKED):
                _check_form(file)
    return [part]


def _table(path: Path, split: str | None, reading: Reading) -> Part:
    return read_table(path, split, reading.image, reading.caption, reading.max_skipped)


def _table_in(folder: Path) -> Path | None:
    found = [folder / f"pairs{suffix}" for suffix in TABLES if (folder / f"pairs{suffix}").is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds {_some(path.name for path in found)}: name the one to read")
    return found[0] if found else None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(TAR) and path.is_file())


def _index(shards: list[Path], reading: Reading) -> list[Part]:
    def index(shard: Path) -> Part:
        return index_shard(shard, reading.caption, reading.suffixes)

    return index_shards(shards, reading.cache, f"caption={reading.caption}", index)


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


def _some(names: Iterable[object]) -> str:
    names = list(map(str, names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
