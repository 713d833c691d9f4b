"""The tar index against Python's tarfile, on odd archives and on damaged ones."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from data.tar_index import BLOCK, DEVICES, FILES, FOLDERS, LINKS, SPARSE, DamagedTarError, members
from tests.data.pair_files import real_tar

LONG = "a/" * 70 + "b" * 90 + ".txt"  # over ustar's name and prefix
KINDS = dict.fromkeys(FILES, "file") | dict.fromkeys(LINKS, "link") | dict.fromkeys(DEVICES, "device")
KINDS |= dict.fromkeys(FOLDERS, "folder") | {SPARSE: "sparse"}


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for key, value in more.items():
        setattr(member, key, value)
    return member


def write(path: Path, contents: list[tuple[tarfile.TarInfo, bytes]], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for member, data in contents:
            tar.addfile(member, io.BytesIO(data))
    return path


def theirs(path: Path, **options: object) -> list[tuple[str, str, int, int]]:
    def kind(member: tarfile.TarInfo) -> str:
        if member.issparse():
            return "sparse"
        if member.isfile():
            return "file"
        if member.isdir():
            return "folder"
        return "link" if member.issym() or member.islnk() else "device"

    with tarfile.open(path, ignore_zeros=True, errorlevel=2, **options) as tar:
        return [(m.name.rstrip("/"), kind(m), m.offset_data, m.size if m.isfile() else 0) for m in tar.getmembers()]


def ours(path: Path) -> list[tuple[str, str, int, int]]:
    return [(os.fsdecode(m.name).rstrip("/"), KINDS[m.kind], m.offset, m.size) for m in members(path)]


EVERYTHING = [
    (info("plain.txt", 3), b"abc"),
    (info("empty.txt"), b""),
    (info("block.txt", BLOCK), b"x" * BLOCK),
    (info("folder", kind=tarfile.DIRTYPE), b""),
    (info("folder/é.txt", 513), b"y" * 513),
    (info(LONG, 5), b"abcde"),
    (info("x" * 100, 1), b"1"),
    (info("d" * 90 + "/" + "e" * 90, 2), b"22"),  # ustar: prefix and name
    (info("soft", kind=tarfile.SYMTYPE, linkname="plain.txt"), b""),
    (info("hard", kind=tarfile.LNKTYPE, linkname="x" * 150), b""),  # a long link name
    (info("pipe", kind=tarfile.FIFOTYPE), b""),
    (info("null", kind=tarfile.CHRTYPE), b""),
    (info("contiguous", 4, tarfile.CONTTYPE), b"cont"),
    (info("old", 3, tarfile.AREGTYPE), b"old"),
    (info("old folder/", 0, tarfile.AREGTYPE), b""),
    (info("last.txt", 1), b"z"),
]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_every_kind_of_member_is_where_tarfile_finds_it(form: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", EVERYTHING, format=form)
    assert ours(path) == theirs(path)
    assert {kind for _, kind, *_ in ours(path)} == {"file", "folder", "link", "device"}
    contents = {member.name.rstrip("/"): data for member, data in EVERYTHING}
    with path.open("rb") as file:
        for member in members(path):
            file.seek(member.offset)
            data = contents[os.fsdecode(member.name).rstrip("/")]
            assert file.read(member.size) == data


def test_ustar_names_of_two_fields(tmp_path: Path) -> None:
    short = [(i, d) for i, d in EVERYTHING if i.name != LONG and len(i.linkname) <= 100]
    path = write(tmp_path / "a.tar", short, format=tarfile.USTAR_FORMAT)
    assert ours(path) == theirs(path)
    assert any(len(name) == 181 for name, *_ in ours(path))


def test_pax_headers_correct_the_plain_one(tmp_path: Path) -> None:
    """A path and a size of pax win; those for all members stay, those for one do not."""
    corrected = info("plain", 6, pax_headers={"path": "corrected.txt", "comment": "of this one"})
    path = write(
        tmp_path / "a.tar",
        [(corrected, b"123456"), (info("next.txt", 1), b"1")],
        format=tarfile.PAX_FORMAT,
        pax_headers={"comment": "for all"},
    )
    assert ours(path) == theirs(path)
    assert [name for name, *_ in ours(path)] == ["corrected.txt", "next.txt"]

    body = b"14 size=01024\n"  # the header says 0
    head = info("head", len(body), tarfile.XHDTYPE).tobuf() + body.ljust(BLOCK, b"\0")
    path.write_bytes(head + info("big.txt", 0).tobuf() + b"1" * 1024 + info("after.txt", 0).tobuf() + bytes(1024))
    assert ours(path) == theirs(path)
    assert [(name, size) for name, _, _, size in ours(path)] == [("big.txt", 1024), ("after.txt", 0)]


def test_a_size_in_base_256(tmp_path: Path) -> None:
    header = bytearray(info("big.txt", 700).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = bytes([0x80]) + (700).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + b"x" * 1024 + info("after.txt").tobuf() + bytes(1024))
    assert ours(path) == theirs(path)
    assert ours(path)[0][3] == 700


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_files_are_known_as_such_and_what_follows_is_found(form: str, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(40):  # more pieces than one header holds
            file.seek(number * 65536)
            file.write(b"data")
    (tmp_path / "after.txt").write_text("after")
    path = tmp_path / "a.tar"
    command = ["tar", "-C", str(tmp_path), "--sparse", f"--format={form}", "-cf", str(path), "sparse", "after.txt"]
    subprocess.run(command, check=True)
    with tarfile.open(path) as tar:
        sparse = tar.getmember("sparse").issparse()
    if not sparse:
        pytest.skip("this file system keeps no holes")
    assert [(name, kind) for name, kind, *_ in ours(path)] == [("sparse", "sparse"), ("after.txt", "file")]
    assert ours(path)[1] == theirs(path)[1]


def test_tars_that_the_system_writes(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep" / ("d" * 120)).mkdir(parents=True)
    (folder / "deep" / ("d" * 120) / ("f" * 200)).write_text("long")
    (folder / "é").write_text("accent")
    for form in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        path = tmp_path / f"{form}.tar"
        names = ["set"] if form in ("oldgnu", "gnu", "posix") else ["./set/é"]
        subprocess.run(["tar", "-C", str(tmp_path), f"--format={form}", "-cf", str(path), *names], check=True)
        assert ours(path) == theirs(path), form


def test_archives_put_one_after_another_are_read_through(tmp_path: Path) -> None:
    one = write(tmp_path / "1.tar", [(info("1.txt", 1), b"1")]).read_bytes()
    two = write(tmp_path / "2.tar", [(info("2.txt", 1), b"2")]).read_bytes()
    path = tmp_path / "both.tar"
    path.write_bytes(one + bytes(64 * BLOCK) + two)
    assert ours(path) == theirs(path)
    assert len(ours(path)) == 2
    path.write_bytes(one + b"what tar does not read after an archive's end" * 30)
    assert [name for name, *_ in ours(path)] == ["1.txt"]


def test_names_are_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [(info(os.fsdecode(b"\xff\xfe.txt")), b"")], format=tarfile.GNU_FORMAT)
    assert next(members(path)).name == b"\xff\xfe.txt"


def test_old_sums_of_signed_bytes(tmp_path: Path) -> None:
    header = bytearray(info("é" * 20).tobuf(tarfile.GNU_FORMAT))
    signed = sum(b - 256 * (b > 127) for b in header[:148] + header[156:]) + 256
    header[148:156] = b"%06o\0 " % signed
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(header) + bytes(1024))
    assert ours(path) == theirs(path) == [("é" * 20, "file", 512, 0)]


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return write(tmp_path / "whole.tar", [(info(f"{i}.txt", 700), b"x" * 700) for i in range(4)]).read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DamagedTarError) as caught:
        list(members(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_an_archive_is_refused_wherever_it_is_cut(whole: bytes, tmp_path: Path) -> None:
    """tarfile takes most of these without a word."""
    end = 4 * 3 * BLOCK
    for length in range(1, end + 1, 100):
        words = refused(tmp_path / "a.tar", whole[:length])
        assert ("not a tar" if length < BLOCK else f"cut off at byte {length}") in words
    words = refused(tmp_path / "a.tar", whole[:end])
    assert "empty blocks that end a tar are missing" in words
    subprocess.run(words[words.index("truncate") :].split(), check=True)  # the remedy it names
    assert len(ours(tmp_path / "a.tar")) == 4
    (tmp_path / "a.tar").write_bytes(whole[: end + 700])
    assert len(ours(tmp_path / "a.tar")) == 4


def test_a_flipped_bit_in_a_header_is_found(whole: bytes, tmp_path: Path) -> None:
    at = 3 * BLOCK
    for byte in (0, 124, 130, 150, 156, 257, 400, 511):
        damaged = bytearray(whole)
        damaged[at + byte] ^= 4
        assert f"damaged at byte {at}" in refused(tmp_path / "a.tar", bytes(damaged))


def test_numbers_that_are_none_are_found(tmp_path: Path) -> None:
    def summed(header: bytearray) -> bytes:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
        return bytes(header)

    first = info("1.txt").tobuf()
    header = bytearray(info("2.txt").tobuf())
    header[124:136] = b"99999999999\0"
    assert "a size that is no number" in refused(tmp_path / "a.tar", first + summed(header) + bytes(1024))
    for body in (b"99 path=x\n", b"path\n", b"7 path\n", b"x path=x\n", b"14 size=-1024\n", b"12 size=1k2\n"):
        head = info("h", len(body), tarfile.XHDTYPE).tobuf() + body.ljust(BLOCK, b"\0")
        assert "pax" in refused(tmp_path / "a.tar", first + head + info("2.txt").tobuf() + bytes(1024)), body


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "it is empty"),
        (b"\x1f\x8b" + bytes(600), "compressed; gunzip it first"),
        (b"PK\x03\x04" + bytes(600), "unzip it first"),
        (b"<!DOCTYPE html>" + b" " * 600, "it starts with b'<!DOCTYPE html>"),
    ],
    ids=["empty", "gzip", "zip", "html"],
)
def test_what_is_no_tar_is_said(start: bytes, words: str, tmp_path: Path) -> None:
    message = refused(tmp_path / "a.tar", start)
    assert "not a tar" in message
    assert words in message


@pytest.mark.parametrize("name", ["coco_captions", "emoji"])
def test_the_real_archives(name: str, tmp_path: Path) -> None:
    path = real_tar(name, tmp_path)
    assert ours(path) == theirs(path)
