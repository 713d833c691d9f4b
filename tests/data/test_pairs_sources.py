"""What `--data` may name: ranges of shards, several sources, splits, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data import Pairs, PairSet, open_pairs
from data.pair_sources import expand
from tests.data.pair_files import some, tar, tree


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))


def numbers(pairs: PairSet) -> list[int]:
    return [int(pairs.texts(i)[0].split()[1]) for i in range(len(pairs))]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", "a.tar"),
        ("{0..2}", "0 1 2"),
        ("{08..11}.tar", "08.tar 09.tar 10.tar 11.tar"),
        ("{8..11}", "8 9 10 11"),
        ("{000..002}", "000 001 002"),
        ("{2..0}", "2 1 0"),
        ("{a,b}/{0..1}", "a/0 a/1 b/0 b/1"),
        ("{x}", "{x}"),
    ],
)
def test_braces_stand_for_what_a_shell_makes_of_them(pattern: str, names: str) -> None:
    assert list(expand(pattern)) == names.split()


def test_a_name_with_braces_or_colons_that_exists_is_that_file(tmp_path: Path) -> None:
    assert len(open_pairs(tar(tmp_path / "{0..5}.tar", some(2)))) == 2
    assert len(open_pairs(tree(tmp_path / "a::b", some(2)))) == 2


def refused(where: Path | str, words: str, split: str | None = None) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_pairs(Path(where), split)
    assert str(caught.value).startswith("--data ")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such file or folder")
    refused(f"{tar(tmp_path / 'a.tar', some(1))}::{tmp_path}/b.tar", r"/b\.tar: no such file or folder")
    refused(f"{tmp_path}/a.tar::", "an empty name beside ::")  # not the current folder
    for number in (0, 3):
        tar(tmp_path / f"s{number}.tar", some(1))
    refused(
        f"{tmp_path}/s{{0..30}}.tar", r"29 of 31 files are missing: .*s1\.tar, .*s2\.tar, .*s4\.tar, .* and 21 more"
    )
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no image-text pairs")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "A.TAR.GZ"])
def test_a_packed_tar_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    refused(tmp_path / name, rf"is compressed.*gunzip -k {tmp_path}/{name}")
    refused(tmp_path, rf"is compressed.*gunzip -k {tmp_path}/{name}")  # the folder that holds nothing else
    for split in ("train", None):
        refused(tmp_path / name, "gunzip", split)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, words in (
        ("a.tar.zst", "unpack it"),
        ("a.zip", "unpack it"),
        ("a.parquet", r"are read from \.tar, \.csv"),
    ):
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, words)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    refused(tmp_path / "a.tar", "gunzip it first")


@pytest.fixture(params=["tar", "folder"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    if request.param == "tar":
        return lambda files: tar(tmp_path / "set.tar", files)
    return lambda files: tree(tmp_path / "set", files)


@pytest.mark.parametrize("top", ["", "emoji/"])
def test_a_split_is_a_folder_of_the_set_or_of_its_top_folder(both: Callable[..., Path], top: str) -> None:
    path = both(some(3, f"{top}train/") | some(2, f"{top}test/deep/train/", 3) | some(1, f"{top}trainer/", 5))
    assert numbers(Pairs().open(path, "train")) == [0, 1, 2]
    assert numbers(Pairs().open(path, "test")) == [3, 4]
    assert sorted(numbers(Pairs(train=None).open(path, "train"))) == [0, 1, 2, 3, 4, 5]
    assert numbers(Pairs(train="trainer", test="test").open(path, "train")) == [5]
    with pytest.raises(ValueError, match=r"split 'val'.*test.*train.*trainer"):
        Pairs(test="val").open(path, "test")


def test_splits_that_cannot_be_told(both: Callable[..., Path], tmp_path: Path) -> None:
    refused(both(some(2)), "no folders: leave the split out", "train")
    tree(tmp_path / "two", some(1, "a/train/") | some(1, "b/train/"))
    refused(tmp_path / "two", "'train' is in several of its folders: .*a/train, .*b/train", "train")
    assert numbers(open_pairs(tree(tmp_path / "glob", some(1, "[t]/x/", 7)), "[t]")) == [7]


def test_a_shard_may_lack_a_split_but_a_source_may_not(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    tar(one / "0.tar", some(2, "train/"))
    tar(one / "1.tar", some(1, "test/", 2))
    tar(two / "0.tar", some(2, "train/", 5))
    assert numbers(open_pairs(one, "test")) == [2]
    assert numbers(open_pairs(Path(f"{one}/{{0..1}}.tar"), "test")) == [2]
    assert numbers(open_pairs(Path(f"{one}::{two}"), "train")) == [0, 1, 5, 6]
    refused(f"{one}::{two}", r"two: no split 'test': its images stand in train", "test")


def test_shards_in_a_folder_a_split(tmp_path: Path) -> None:
    tar(tmp_path / "set" / "train" / "0.tar", some(2))
    tar(tmp_path / "set" / "val" / "0.tar", some(1, start=7))
    pairs = Pairs(test="val")
    assert (numbers(pairs.open(tmp_path / "set", "train")), numbers(pairs.open(tmp_path / "set", "test"))) == (
        [0, 1],
        [7],
    )


def test_a_split_may_be_shards_by_name(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"cc3m-train-{number:04d}.tar", some(1, start=number))
    tar(tmp_path / "cc3m-validation-0000.tar", some(1, start=9))
    pairs = Pairs(train="cc3m-train-{0000..0002}.tar", test="cc3m-validation-0000.tar")
    assert (numbers(pairs.open(tmp_path, "train")), numbers(pairs.open(tmp_path, "test"))) == ([0, 1, 2], [9])


def test_an_unreadable_place_is_an_error_for_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", some(1))

    def fail(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.pread", fail)
    refused(path, r"a\.tar: Permission denied")
    monkeypatch.setattr("os.scandir", fail)
    refused(tmp_path, "Permission denied")
