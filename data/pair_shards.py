"""Tar shards: their pairs by index, their images by position."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from .images import BadImage
from .pair_naming import OUTSIDE, clean, pair, split_name
from .pair_part import Part, Row, Skipped, stamp_of
from .pair_texts import BadPairError, lines, of_json
from .tar_index import FILES, FOLDERS, members

NOT_A_FILE = "link, device or sparse file"


def index_shard(path: Path, caption: str | None, suffixes: tuple[bytes, ...]) -> Part:
    """Returns the pairs of a tar, in the order of their images in it.

    Args:
        caption: field of a .json caption.
        suffixes: of captions, the preferred first.

    Raises:
        DamagedTarError: the tar is none, damaged or cut off.
        OSError: it cannot be read.
    """
    skipped: list[Skipped] = []

    def skip(reason: str, path: bytes) -> None:
        skipped.append(Skipped(reason, path))

    def files() -> Iterator[tuple[bytes, tuple[int, int]]]:
        for name, kind, offset, size in members(path):
            inside = clean(name)
            if kind in FILES and inside is not None:
                yield inside, (offset, size)
            elif kind not in FOLDERS and split_name(name) is not None:
                skip(NOT_A_FILE if inside is not None else OUTSIDE, name)

    stamp = stamp_of(path.stat())
    found = pair(files(), suffixes, skip)
    rows = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for one in found:
            offset, size = one.caption
            text = os.pread(descriptor, size, offset)
            try:
                captions = of_json(text, caption) if one.is_json else lines(text)
            except BadPairError as bad:
                skipped.append(Skipped(bad.reason, one.caption_path, bad.detail))
            else:
                rows.append(Row(one.image_path, captions, *one.image))
    finally:
        os.close(descriptor)
    return Part.of(path, rows, skipped, stamp)


class Shards:
    """Bytes of shards by position, from any number of processes and threads: nothing shares a file's cursor.

    A shard is opened at its first read and stays open, up to half the files that a process may have open; those
    beyond are opened for each read. Nothing is closed before the end, so no thread can lose the file it reads from.
    """

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}

    def read(self, path: Path, stamp: tuple[int, int], offset: int, size: int) -> bytes:
        """Returns `size` bytes from `offset` on.

        Raises:
            BadImage: the shard is gone, cannot be read, or is not what was indexed.
        """
        try:
            descriptor = self._open.get(path)
            if descriptor is not None:
                return os.pread(descriptor, size, offset)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            keep = len(self._open) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
            try:
                if stamp_of(os.fstat(descriptor)) != stamp:
                    keep = False
                    raise BadImage(f"{path}: changed since it was indexed: start again, and it is indexed anew")
                return os.pread(descriptor, size, offset)
            finally:
                if not keep or self._open.setdefault(path, descriptor) != descriptor:
                    os.close(descriptor)
        except OSError as error:
            raise BadImage(f"{path}: {error.strerror or error}") from None

    def __getstate__(self) -> dict[str, object]:
        return {"_open": {}}  # a descriptor means nothing to another process

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
