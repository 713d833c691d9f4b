"""Shards on the node's own disk: copied once, whole, found again, and refused with numbers where they do not fit."""

from __future__ import annotations

import collections
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import ImageFolder, open_pairs, pack
from data import stage as staging
from data.packed import Packed
from data.stage import fetch, shards_of, stage, target
from parallel import World
from tests.data.pair_files import some, tar

ALONE = World(0, 1, torch.device("cpu"))


def never() -> None:
    return None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a store of three shards of 1 MB."""
    place = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(0)
    for number in range(15):
        path = place / "source" / "train" / f"c{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(path)
    assert pack.main([str(place / "source"), str(place / "store"), "--raw", "--shard-mb", "1", "--workers", "1"]) == 0
    return place / "store"


def opened(root: Path) -> Packed:
    images = ImageFolder().open(root, "train")
    assert isinstance(images, Packed)
    return images


def inodes(place: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in place.rglob("*.tar")}


def staged(images: Packed, place: object) -> Packed:
    result = stage(images, str(place), ALONE, never)
    assert isinstance(result, Packed)
    return result


def test_the_copy_is_read_and_is_the_same_set(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(root, tmp_path / "store")
    images = opened(tmp_path / "store")
    expected = [images.image(i).tobytes() for i in range(len(images))]
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    copied = staged(images, "$NODE_DISK/of/run")
    shutil.rmtree(tmp_path / "store")
    assert [copied.image(i).tobytes() for i in range(len(copied))] == expected
    assert np.array_equal(copied.labels, images.labels)
    assert str(tmp_path / "node" / "of" / "run") in copied.name(0)
    assert "NODE_DISK" not in str(copied.parts.parts[0].path)


def test_pairs_in_shards_are_copied_too(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / "a" / f"{number}.tar", some(3, "train/", start=3 * number))
    tar(tmp_path / "a" / "2.tar", some(3, "test/"))
    pairs = open_pairs(tmp_path / "a", "train")
    copied = stage(pairs, str(tmp_path / "node"), ALONE, never)
    assert not isinstance(copied, str)
    assert sorted(inodes(tmp_path / "node")) == ["0.tar", "1.tar"]  # what the split reads
    shutil.rmtree(tmp_path / "a")
    assert [copied.texts(i) for i in range(6)] == [pairs.texts(i) for i in range(6)]
    assert copied.image(5).size


def test_what_is_there_already_is_used_and_what_is_not_right_is_copied_anew(root: Path, tmp_path: Path) -> None:
    images = opened(root)
    staged(images, tmp_path)
    first = inodes(tmp_path)
    assert len(first) == 3
    staged(images, tmp_path)
    assert inodes(tmp_path) == first
    one, two, three = (target(tmp_path, part.path) for part in images.parts.parts)
    one.write_bytes(one.read_bytes()[:-1])  # cut off
    os.utime(two)  # of another time: perhaps of another content
    (three.parent / ".000002.tar.0123.tmp").write_bytes(b"what a kill left")
    copied = staged(images, tmp_path)
    assert inodes(tmp_path)[three.name] == first[three.name]
    assert [copied.image(i) for i in range(15)] == [images.image(i) for i in range(15)]
    assert not list(three.parent.glob(".*"))


def fetch_at_once(root: Path, place: Path, start: multiprocessing.synchronize.Barrier, results: object) -> None:
    images = opened(root)
    start.wait(60)
    results.put(fetch(images.parts.parts, place, staging.checksums(images), threading.Event()))  # ty: ignore[unresolved-attribute]


def test_one_of_a_nodes_ranks_copies(root: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(4), fork.Queue()
    ranks = [fork.Process(target=fetch_at_once, args=(root, tmp_path, start, results)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    copied = sorted(results.get(timeout=60) for _ in ranks)
    for rank in ranks:
        rank.join()
    assert copied == [0, 0, 0, sum(path.stat().st_size for path in root.rglob("*.tar"))]


def test_a_folder_of_files_is_refused_with_the_remedy(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--stage copies shards, and --data D has none.*python -m data.pack SRC DST"):
        shards_of(ImageFolder().open(root.parent / "source", "train"), Path("D"))
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("a caption")
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"single files: put them into .tar shards"):
        shards_of(open_pairs(tmp_path), tmp_path)


def test_what_cannot_be_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = opened(root)
    with pytest.raises(ValueError, match="a variable in it is not set on"):
        stage(images, "$NO_SUCH/x", ALONE, never)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--stage .*file/x.* (Not a directory|File exists)"):
        stage(images, str(tmp_path / "file" / "x"), ALONE, never)
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000**2))
    with pytest.raises(ValueError, match=r"3 shards of 0.0 GB are to be copied there, and there is room for 0.0 GB"):
        stage(images, str(tmp_path / "full"), ALONE, never)
    assert inodes(tmp_path / "full") == {}


def test_a_damaged_shard_is_not_taken_over(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "store")
    shard = tmp_path / "store" / "train" / "000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    with pytest.raises(ValueError, match=r"000001.tar: not the bytes that were packed: .*--verify .*store"):
        stage(opened(tmp_path / "store"), str(tmp_path / "node"), ALONE, never)
    assert "000001.tar" not in inodes(tmp_path / "node")
    images = opened(tmp_path / "store")
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="changed since it was indexed"):
        stage(images, str(tmp_path / "node"), ALONE, never)


class Others(World):
    """Stands for a world whose other rank says what it is told to."""

    def highest(self, value: int) -> int:
        return max(value, OTHER[0])

    def collect(self, value: object) -> list[object]:
        return [value, OTHER[1]]


OTHER: list = [0, None]


@pytest.mark.parametrize(("says", "why"), [(staging.FAILED, "no room there"), (staging.STOPPED, "SIGUSR1")])
def test_what_one_rank_meets_ends_all(
    says: int, why: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.data.test_stage.OTHER", [says, why])
    world, images = Others(0, 2, torch.device("cpu")), opened(root)
    tmp_path.joinpath(staging.LOCK).touch()
    with staging._locked(tmp_path / staging.LOCK):  # a copy that takes for ever
        if says == staging.FAILED:
            with pytest.raises(ValueError, match=why):
                stage(images, str(tmp_path), world, never)
        else:
            assert stage(images, str(tmp_path), world, never) == why


def test_a_stop_ends_the_copy(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()

    def slowly(*_: object) -> None:
        going.set()
        time.sleep(0.3)
        raise staging._Cancelled

    monkeypatch.setattr(staging, "_copy", slowly)
    assert stage(opened(root), str(tmp_path), ALONE, lambda: "SIGTERM" if going.is_set() else None) == "SIGTERM"
