"""What a tar holds and where, from its headers alone: a shard is read in place, by offset, and never unpacked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
WINDOW = 4 * BLOCK  # a caption's header, a caption, and the next image's header: one read a pair
EMPTY = bytes(BLOCK)

# ustar's type byte. tarfile calls the first three regular; only these and types that nobody knows have data after them.
FILES = (b"0", b"\0", b"7")
LINKS = (b"1", b"2")
DEVICES = (b"3", b"4", b"6")
FOLDERS = (b"5",)
SPARSE = b"S"
LONG_NAME, LONG_LINK, PAX, PAX_FOR_ALL = b"L", b"K", (b"x", b"X"), b"g"


class Member(NamedTuple):
    """A file in a tar."""

    name: bytes  # as it stands there, so perhaps absolute, with `..` or not UTF-8
    kind: bytes  # one of FILES, LINKS, ...; SPARSE where the data are not in one piece
    offset: int  # byte at which its data start
    size: int  # bytes


class DamagedTarError(ValueError):
    """A file that is no tar, or not a whole one; the message names it, the byte and the remedy."""


def members(path: Path) -> Iterator[Member]:
    """Yields the members in the order they stand in, as Python's `tarfile` does with `ignore_zeros=True`.

    Read are ustar, GNU's long names and pax's `path` and `size`, with every header's checksum. Archives put one after
    another (`cat a.tar b.tar`) are read through. Unlike `tarfile`, which ends silently at the first doubt, an archive
    without its end is refused: a copy that stopped half way would else be a smaller training set.

    Raises:
        DamagedTarError: not a tar, a damaged header, or an archive that was cut off.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield from _walk(_Reader(descriptor, path))
    finally:
        os.close(descriptor)


class _Reader:
    """Bytes of a file by position, some read ahead."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self.path = descriptor, path
        self.total = os.fstat(descriptor).st_size
        self._window, self._start = b"", 0

    def block(self, position: int) -> bytes:
        """Returns the block at a position; it is shorter at the end of the file."""
        at = position - self._start
        if not 0 <= at <= len(self._window) - BLOCK:
            self._window, self._start, at = os.pread(self.descriptor, WINDOW, position), position, 0
        return self._window[at : at + BLOCK]

    def data(self, position: int, size: int) -> bytes:
        """Returns `size` bytes from a position. Raises DamagedTarError where the file ends before."""
        found = os.pread(self.descriptor, size, position)
        if len(found) < size:
            raise self.cut(position, position + size)
        return found

    def after_zeros(self, position: int) -> int | None:
        """Returns the position of the first block from `position` on that is not all zeros."""
        while chunk := os.pread(self.descriptor, 64 * BLOCK, position):
            left = len(chunk.lstrip(b"\0"))
            if left:
                return position + (len(chunk) - left) // BLOCK * BLOCK
            position += len(chunk)
        return None

    def cut(self, position: int, needed: int) -> DamagedTarError:
        return DamagedTarError(
            f"{self.path}: cut off at byte {self.total}: the member at byte {position} ends at {needed}. "
            "Copy or download it again"
        )

    def unended(self, position: int) -> DamagedTarError:
        return DamagedTarError(
            f"{self.path}: cut off at byte {self.total}: the empty blocks that end a tar are missing. Copy or download "
            f"it again; if you know it to be whole, end it: truncate -s {position + 2 * BLOCK} {self.path}"
        )

    def damaged(self, position: int, what: str) -> DamagedTarError:
        if position == 0:
            return DamagedTarError(f"{self.path}: not a tar: {_looks_like(self.block(0))}")
        return DamagedTarError(f"{self.path}: damaged at byte {position}: {what}. Copy or download it again")


def _walk(file: _Reader) -> Iterator[Member]:
    position, ended = 0, False
    long_name: bytes | None = None
    for_all: dict[bytes, bytes] = {}
    pax: dict[bytes, bytes] = {}
    while True:
        header = file.block(position)
        if header[:1] == b"\0" and header == EMPTY:
            found = file.after_zeros(position)
            if found is None:
                return
            position, ended = found, True
            continue
        if not _has_checksum(header):
            if ended:  # tar itself reads nothing after an archive's end
                return
            if position and position + BLOCK > file.total:
                raise file.unended(position)
            raise file.damaged(position, "a header whose checksum is wrong")
        kind = header[156:157]
        try:
            size = _number(header[124:136])
        except ValueError:
            raise file.damaged(position, "a size that is no number") from None
        start = position + BLOCK
        if kind in PAX or kind == PAX_FOR_ALL:
            try:
                records = _pax(file.data(start, size))
            except (ValueError, IndexError):
                raise file.damaged(position, "a pax header that cannot be read") from None
            if kind == PAX_FOR_ALL:
                for_all |= records
                pax = for_all | pax
            else:
                pax = for_all | records
        elif kind == LONG_NAME:
            long_name = file.data(start, size).partition(b"\0")[0]
        elif kind != LONG_LINK:
            name = header[:100].partition(b"\0")[0]
            if header[257:263] == b"ustar\0" and header[345]:
                name = header[345:500].partition(b"\0")[0] + b"/" + name
            if long_name is not None:
                name, long_name = long_name, None
            if pax:
                name, size, kind = _override(file, position, pax, name, size, kind)
                pax = dict(for_all)
            if kind != b"0":
                if kind == SPARSE and header[156:157] == SPARSE:
                    start = _after_sparse_map(file, header, start)
                elif kind == b"\0" and name.endswith(b"/"):  # a folder, before ustar
                    kind = FOLDERS[0]
                if kind in LINKS or kind in DEVICES or kind in FOLDERS:
                    size = 0
            if start + size > file.total:
                raise file.cut(position, start + size)
            yield Member(name, kind, start, size)
        position = start + (size + BLOCK - 1) // BLOCK * BLOCK


def _has_checksum(header: bytes) -> bool:
    if len(header) < BLOCK:
        return False
    try:
        stored = int(header[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    # The low half of Adler-32, begun at 0, is the sum of the bytes modulo 65521: 20 times the speed of Python's sum().
    # The checksum is made with eight spaces in its own place.
    total = (zlib.adler32(header[156:], zlib.adler32(header[:148], 0)) & 0xFFFF) + 8 * 32
    if (stored - total) % 65521 == 0:
        return True
    signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])  # some old tars summed signed bytes
    return (stored - signed) % 65521 == 0


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: over 8 GiB, in base 256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    number = int(field.strip(b"\0 ") or b"0", 8)
    if number < 0:
        raise ValueError("a negative number")
    return number


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Returns the records `LENGTH key=value\\n` of an extended header."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data) and data[position]:
        length = int(data[position : data.index(b" ", position)])
        record = data[position : position + length]
        if len(record) != length or not record.endswith(b"\n"):
            raise ValueError("the record does not end where it says")
        key, equals, value = record[:-1].partition(b" ")[2].partition(b"=")
        if not equals:
            raise ValueError("a record without a value")
        records[key] = value
        position += length
    return records


def _override(
    file: _Reader, position: int, pax: dict[bytes, bytes], name: bytes, size: int, kind: bytes
) -> tuple[bytes, int, bytes]:
    """Returns (name, size, kind) as an extended header corrects them."""
    if b"size" in pax:
        if not pax[b"size"].isdigit():
            raise file.damaged(position, "a pax size that is no number")
        size = int(pax[b"size"])
    if any(key.startswith(b"GNU.sparse.") for key in pax):
        return pax.get(b"GNU.sparse.name", pax.get(b"path", name)), size, SPARSE
    return pax.get(b"path", name), size, kind


def _after_sparse_map(file: _Reader, header: bytes, position: int) -> int:
    more = header[482]
    while more:
        more = file.data(position, BLOCK)[504]
        position += BLOCK
    return position


def _looks_like(start: bytes) -> str:
    if not start:
        return "it is empty"
    packed = {
        b"\x1f\x8b": "gunzip",
        b"BZh": "bunzip2",
        b"\xfd7zXZ": "unxz",
        b"\x28\xb5\x2f\xfd": "unzstd",
        b"PK": "unzip",
    }
    for magic, program in packed.items():
        if start.startswith(magic):
            return f"it is compressed; {program} it first"
    return f"it starts with {start[:16]!r}"
