"""Image-text pairs by position: the same samples from a tar, a folder and a table, in this process and in workers."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from data import BadImage, Pairs, PairSet, open_pairs
from tests.data.pair_files import picture, real_tar, some, tar, tree


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))


def level(pairs: PairSet, index: int) -> int:
    return pairs.image(index).getpixel((0, 0))[0]


def content(pairs: PairSet) -> list[tuple[tuple[str, ...], str]]:
    """Returns (captions, digest of the pixels) of every pair."""
    pixels = (np.asarray(pairs.image(i)) for i in range(len(pairs)))
    return [(pairs.texts(i), hashlib.sha256(p.tobytes()).hexdigest()) for i, p in enumerate(pixels)]


def test_a_tar_and_the_folder_it_was_made_from_are_the_same_set(tmp_path: Path) -> None:
    files = {
        "train/a.png": picture(1),
        "train/a.txt": b"one\n",
        "train/b.jpg": picture(2, "JPEG"),
        "train/b.txt": "zwei\r\n\n  dr\u00e9i  \n".encode(),  # two lines, one of them empty
        "train/b.cls": b"7",
        "train/deep/c.WEBP": picture(3, "WEBP"),
        "train/deep/c.txt": b"\xef\xbb\xbfthree",  # as Notepad writes it
        "train/d.jpeg": picture(4, "JPEG"),
        "train/d.json": b'{"caption": "four", "url": "x"}',
    }
    shard = open_pairs(tar(tmp_path / "a.tar", files))
    folder = open_pairs(tree(tmp_path / "tree", files))
    assert [shard.texts(i) for i in range(4)] == [("one",), ("zwei", "dréi"), ("three",), ("four",)]
    assert sorted(content(shard)) == sorted(content(folder))
    assert shard.skipped == folder.skipped == {}
    assert (len(shard), shard.num_texts) == (4, 5)
    assert shard.labels.tolist() == [0] * 4
    assert shard.labels.dtype == np.int64
    assert shard.name(2) == f"{tmp_path}/a.tar:train/deep/c.WEBP"
    names = [Path(folder.name(i)).relative_to(tmp_path / "tree" / "train") for i in range(4)]
    assert list(map(str, names)) == ["a.png", "b.jpg", "d.jpeg", "deep/c.WEBP"]
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            shard.image(wrong)


def test_sources_follow_each_other_as_they_are_named(tmp_path: Path) -> None:
    for number in range(12):
        tar(tmp_path / f"shard-{number:02d}.tar", some(3, start=3 * number))
    tree(tmp_path / "folder", some(2, start=50))
    where = f"{tmp_path}/shard-{{08..10}}.tar::{tmp_path}/folder::{tmp_path}/shard-{{01,00}}.tar"
    pairs = open_pairs(Path(where))
    expected = [*range(24, 33), 50, 51, 3, 4, 5, 0, 1, 2]
    assert [level(pairs, i) for i in range(len(pairs))] == expected
    assert [pairs.texts(i) for i in range(len(pairs))] == [(f"number {n}",) for n in expected]
    every = open_pairs(tmp_path)  # a folder that holds tars: all of them, by name
    assert [level(every, i) for i in range(len(every))] == list(range(36))


class Batches(Dataset[list[tuple[int, tuple[str, ...]]]]):
    """Item n is 200 pairs at positions that depend on n."""

    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> list[tuple[int, tuple[str, ...]]]:
        rows = np.random.default_rng(index).permutation(len(self.pairs))[:200].tolist()
        return [(level(self.pairs, row), self.pairs.texts(row)) for row in rows]


def test_forked_workers_read_the_same_bytes(tmp_path: Path) -> None:
    """The shard is open before the fork: with its cursor shared, as by seek and read, this fails."""
    pairs = open_pairs(tar(tmp_path / "a.tar", some(250)))
    assert [level(pairs, i) for i in range(250)] == list(range(250))
    batches = Batches(pairs)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(40),
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=lambda item: item,
    )
    assert list(loader) == [batches[n] for n in range(40)]


def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        tar(tmp_path / f"{number:02d}.tar", some(1, start=number))
    monkeypatch.setattr("resource.getrlimit", lambda which: (8, 8))
    pairs = open_pairs(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        assert [level(pairs, i) for i in range(20)] == list(range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 4
    copy = pickle.loads(pickle.dumps(pairs))
    assert [level(copy, i) for i in range(20)] == list(range(20))
    del pairs, copy
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_shard_that_changes_under_a_run_is_not_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", some(3))
    pairs = open_pairs(path)
    tar(path, some(4, start=100))
    with pytest.raises(BadImage, match=r"a\.tar: changed since it was indexed"):
        pairs.image(0)
    path.unlink()
    with pytest.raises(BadImage, match=r"a\.tar: No such file"):
        pairs.image(0)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    files = {**some(2), "002.png": b"<html>", "002.txt": b"not found"}
    with pytest.raises(BadImage, match=r"a\.tar:002\.png: not an image .6 bytes"):
        open_pairs(tar(tmp_path / "a.tar", files)).image(2)
    with pytest.raises(BadImage, match=r"tree/002\.png: not an image .6 bytes"):
        open_pairs(tree(tmp_path / "tree", files)).image(2)


def test_the_spec_is_a_value(tmp_path: Path) -> None:
    assert Pairs(test="val") == Pairs(test="val") != Pairs()
    with pytest.raises(ValueError, match="--data is missing"):
        Pairs().open(None, "train")


COUNTS = {"train": 4298, "test_style": 1404, "test_concept": 543, None: 6245}  # README of the set


def test_emoji_is_the_same_set_as_a_tar_and_as_a_folder(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder, shard = real_data("emoji"), real_tar("emoji", tmp_path)
    for split, count in COUNTS.items():
        a, b = (Pairs(train=split).open(root, "train") for root in (shard, folder))
        assert len(a) == len(b) == count
        assert a.skipped == b.skipped == {}
        assert [a.name(i).partition(":emoji/")[2] for i in range(0, count, 50)] == [
            str(Path(b.name(i)).relative_to(folder)) for i in range(0, count, 50)
        ]
        assert all(a.texts(i) == b.texts(i) for i in range(count))
        for i in range(0, count, 50):
            assert np.array_equal(np.asarray(a.image(i)), np.asarray(b.image(i)))
    assert len(open_pairs(folder.parent, "test_style")) == 1404  # the folder that holds it


def test_coco_has_five_captions_an_image(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder, shard = real_data("coco_captions"), real_tar("coco_captions", tmp_path)
    for split, count in (("train", 57), ("test", 19)):
        a, b = (Pairs().open(root, split) for root in (shard, folder))
        assert (len(a), a.num_texts) == (len(b), b.num_texts) == (count, 5 * count)
        assert content(a) == content(b)
        lines = Path(b.name(0)).with_suffix(".txt").read_text().splitlines()
        assert list(b.texts(0)) == [line.strip() for line in lines]
