"""Tables of pairs: CSV, TSV and JSONL with an image's path and a caption a row."""

from __future__ import annotations

import csv
import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .pair_part import Part, Skipped
from .pair_texts import BAD_JSON, CAPTION_FIELDS, BadPairError, Strings, captions_of

TABLES = (".csv", ".tsv", ".jsonl")
IMAGE_FIELDS = ("file", "image", "filepath", "image_path", "path", "filename", "file_name")  # in this order
SPLIT_FIELD = "split"
CHECKED = 100  # images that must be there when the set is opened

NO_PATH = "row without an image's path"
URL = "row with a URL: its image is not on this disk"

Record = Mapping[str, Any]
Records = Iterable[tuple[int, Record | None]]  # (line, columns); None for a line that cannot be read


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read."""

    image: str
    caption: str
    split: str | None  # the rows to take: all, or those with this in the column `SPLIT_FIELD`


def read_table(path: Path, split: str | None, image: str | None, caption: str | None, max_missing: float) -> Part:
    """Returns the pairs of a table in the order of its rows; several rows of one image are captions of it.

    Args:
        split: only rows with this in the column `split`.
        image: column of the image's path, relative to the table's folder; None takes the first of `IMAGE_FIELDS`.
        caption: column of the caption; None takes the first of `CAPTION_FIELDS`.
        max_missing: share of the first `CHECKED` images that may be missing.

    Raises:
        ValueError: a column that is not there, a split that no row has, rows that cannot be read, missing images.
        OSError: the table cannot be read.
    """
    if path.suffix.lower() == ".jsonl":
        part = _read(path, _json_lines(path), split, image, caption)
    else:
        between = _separator(path)
        part = None
        for quoted in (True, False) if between == "\t" else (True,):  # tables with tabs are written both ways
            try:
                part = _read(path, _rows(path, between, quoted), split, image, caption)
                break
            except csv.Error as error:
                problem = error
        if part is None:
            raise ValueError(f"{path}: {problem}")
    _check_images(path, list(itertools.islice(part.names, CHECKED)), max_missing)
    return part


def _read(path: Path, records: Records, split: str | None, image: str | None, caption: str | None) -> Part:
    records = iter(records)
    start: list[tuple[int, Record | None]] = []  # up to the first that can be read: it has the columns
    first = None
    for line, first in records:
        start.append((line, first))
        if first is not None:
            break
    if first is None:
        raise ValueError(f"{path}: a table without rows")
    columns = Columns(
        _column(path, first, "image", image, IMAGE_FIELDS),
        _column(path, first, "caption", caption, CAPTION_FIELDS),
        split,
    )
    if split is not None and SPLIT_FIELD not in first:
        raise ValueError(f"{path}: no column {SPLIT_FIELD!r} to find {split!r} in; its columns: {', '.join(first)}")

    positions: dict[bytes, int] = {}  # of each image
    owners, texts, skipped = array("q"), [], []
    splits: set[str] = set()
    for line, record in itertools.chain(start, records):
        if record is not None and split is not None:
            splits.add(str(record.get(SPLIT_FIELD)))
            if record.get(SPLIT_FIELD) != split:
                continue
        try:
            name, captions = _pair(record, columns)
        except BadPairError as bad:
            detail = ", ".join(filter(None, (f"line {line}", bad.detail)))
            skipped.append(Skipped(bad.reason, os.fsencode(path.name), detail))
            continue
        owner = positions.setdefault(name, len(positions))
        owners.extend([owner] * len(captions))
        texts += captions
    if split is not None and split not in splits:
        raise ValueError(f"{path}: no row of split {split!r}; those there are: {', '.join(sorted(splits)[:8])}")

    owner_of = np.array(owners, dtype=np.int64)
    return Part.of_files(
        path.parent,
        Strings.of(positions),
        Strings.of(texts[i] for i in np.argsort(owner_of, kind="stable").tolist()),
        np.bincount(owner_of, minlength=len(positions)),
        skipped,
    )


def _pair(record: Record | None, columns: Columns) -> tuple[bytes, list[bytes]]:
    """Returns (path, captions) of a row. Raises BadPairError."""
    if record is None:
        raise BadPairError(BAD_JSON)
    where = record.get(columns.image)
    if not isinstance(where, str) or not where:
        raise BadPairError(NO_PATH)
    if where.startswith(("http://", "https://")):
        raise BadPairError(URL, where)
    return where.encode("utf-8", "surrogateescape"), captions_of(record, columns.caption)


def _column(path: Path, first: Record, what: str, named: str | None, usual: tuple[str, ...]) -> str:
    for name in usual if named is None else (named,):
        if name in first:
            return name
    wanted = f"none of {', '.join(usual)}" if named is None else f"no {named!r}"
    raise ValueError(f"{path}: {wanted}, so no column of the {what}; its columns: {', '.join(first)}")


def _check_images(path: Path, names: list[bytes], max_missing: float) -> None:
    missing = [name for name in names if not (path.parent / os.fsdecode(name)).is_file()]
    if len(missing) > max_missing * len(names):
        shown = missing[0].decode("utf-8", "backslashreplace")
        raise ValueError(
            f"{path}: {len(missing)} of its first {len(names)} images are missing, such as {shown}: a path that is "
            f"not absolute starts at {path.parent}"
        )


def _separator(path: Path) -> str:
    """Returns what stands between the columns; open_clip's tables have tabs and are called .csv all the same."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        header = file.readline()
    return next((sign for sign in "\t,;" if sign in header), ",")


def _rows(path: Path, between: str, quoted: bool) -> Iterator[tuple[int, Record]]:
    """Yields (line, columns). Bytes that are not UTF-8 become surrogates, so that one bad row spoils no other."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        rows = csv.reader(file, delimiter=between, quoting=quoting, strict=True)
        try:
            header = next(rows, [])
            for row in rows:
                if row:
                    yield rows.line_num, dict(zip(header, row, strict=False))
        except csv.Error as error:
            raise csv.Error(f"line {rows.line_num}: {error}") from None


def _json_lines(path: Path) -> Iterator[tuple[int, Record | None]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (json.JSONDecodeError, RecursionError):
                    record = None
                yield number, record if isinstance(record, dict) else None
