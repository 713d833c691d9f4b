"""Folders of pairs: images and captions side by side, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .pair_naming import pair
from .pair_part import Part, Row, Skipped
from .pair_texts import BadPairError, lines, of_json
from .progress import progress

UNREADABLE = "caption that cannot be read"


def scan_folder(folder: Path, caption: str | None, suffixes: tuple[bytes, ...]) -> Part:
    """Returns the pairs under a folder in the order of their paths, the same on every machine.

    Args:
        caption: field of a .json caption.
        suffixes: of captions, the preferred first.
    """
    skipped: list[Skipped] = []
    rows = []
    files = sorted(_files(os.fsencode(folder), b""))
    found = pair(((path, None) for path in files), suffixes, lambda *why: skipped.append(Skipped(*why)))
    for one in progress(found, len(found), "reading captions"):
        try:
            text = (folder / os.fsdecode(one.caption_path)).read_bytes()
            captions = of_json(text, caption) if one.is_json else lines(text)
        except BadPairError as bad:
            skipped.append(Skipped(bad.reason, one.caption_path, bad.detail))
        except OSError as error:
            skipped.append(Skipped(UNREADABLE, one.caption_path, error.strerror or str(error)))
        else:
            rows.append(Row(one.image_path, captions))
    return Part.of(folder, rows, skipped)


def _files(folder: bytes, inside: bytes) -> Iterator[bytes]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, inside + entry.name + b"/")
            else:
                yield inside + entry.name
