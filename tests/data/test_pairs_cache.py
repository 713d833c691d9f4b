"""Indexes of shards kept between runs: used when they fit, made anew when not, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from pathlib import Path

import pytest

from data import Pairs, PairSet, open_pairs, pair_cache, pair_sources
from tests.data.pair_files import picture, some, tar


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the names of the shards that were walked through, as it goes on."""
    names: list[str] = []
    index = pair_sources.index_shard

    def counted(path: Path, *rest: object) -> object:
        names.append(path.name)
        return index(path, *rest)

    monkeypatch.setattr(pair_sources, "index_shard", counted)
    return names


def everything(pairs: PairSet) -> list[object]:
    rows = [(pairs.name(i), pairs.texts(i), pairs.image(i).tobytes()) for i in range(len(pairs))]
    return [*rows, pairs.skipped, pairs.examples]


def test_a_shard_is_walked_through_once(cache: Path, walked: list[str], tmp_path: Path) -> None:
    odd = {
        "x.png": picture(3),
        "x.txt": "ü\nzwei".encode(),
        "bad\udce9.png": picture(0),
        "a.json": b"{}",
        "a.png": picture(1),
    }
    tar(tmp_path / "s" / "0.tar", some(5, "train/") | odd)
    tar(tmp_path / "s" / "1.tar", {"only.cls": b"1"})
    fresh = everything(open_pairs(tmp_path / "s"))
    assert sorted(walked) == ["0.tar", "1.tar"]
    assert everything(open_pairs(tmp_path / "s")) == fresh
    assert len(open_pairs(tmp_path / "s", "train")) == 5
    assert len(walked) == 2
    assert len(list(cache.iterdir())) == 2


def test_what_is_read_decides_what_is_kept(cache: Path, walked: list[str], tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", {"a.png": picture(0), "a.txt": b"text", "a.json": b'{"caption": "c", "long": "l"}'})
    for _ in range(2):
        assert [open_pairs(path, caption=c).texts(0)[0] for c in (None, "caption", "long")] == ["text", "c", "l"]
    assert len(walked) == 3


def test_a_shard_that_changed_is_walked_through_anew(cache: Path, walked: list[str], tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", some(2))
    open_pairs(path)
    was = path.stat()
    tar(path, some(2, start=7))  # the same size
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))
    assert open_pairs(path).texts(0) == ("number 7",)
    tar(path, some(50))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))  # the same time
    assert len(open_pairs(path)) == 50
    assert len(walked) == 3
    other = tar(tmp_path / "other" / "0.tar", some(3))  # another shard of that name
    assert len(open_pairs(other)) == 3
    assert len(open_pairs(path)) == 50
    assert len(walked) == 4


def test_a_relative_name_means_the_same_shard(
    cache: Path, walked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        tar(tmp_path / name / "0.tar", some(2 if name == "a" else 3))
        monkeypatch.chdir(tmp_path / name)
        assert len(open_pairs(Path("0.tar"))) == (2 if name == "a" else 3)
    assert len(open_pairs(tmp_path / "a" / "0.tar")) == 2
    assert len(walked) == 2


def test_a_damaged_index_is_made_anew(cache: Path, walked: list[str], tmp_path: Path) -> None:
    path = tar(tmp_path / "0.tar", some(5))
    fresh = everything(open_pairs(path))
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    damages = [whole[:n] for n in range(0, len(whole), 37)]
    damages += [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(0, len(whole), 37)]
    for number, damaged in enumerate(damages, start=2):
        kept.write_bytes(damaged)
        assert everything(open_pairs(path)) == fresh
        assert len(walked) == number
        assert kept.read_bytes() == whole
    assert len(list(cache.iterdir())) == 1


def test_another_format_is_made_anew(
    cache: Path, walked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "0.tar", some(2))
    open_pairs(path)
    monkeypatch.setattr(pair_cache, "FORMAT", pair_cache.FORMAT + 1)
    assert len(open_pairs(path)) == 2
    assert len(walked) == 2


def test_a_place_that_cannot_be_written_is_no_error(
    walked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "0.tar", some(2))
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", Path("/proc/nothing")):
        monkeypatch.setenv("SSL_CACHE", str(place))
        assert len(open_pairs(path)) == 2
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert len(open_pairs(path)) == 2
    assert list((tmp_path / "cache").iterdir()) == []  # no half of a file is left
    assert len(walked) == 3


def test_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "0.tar", some(2))
    open_pairs(path, cache=tmp_path / "run")
    Pairs(train=None).open(path, "train", cache=tmp_path / "spec")
    assert len(list((tmp_path / "run").iterdir())) == len(list((tmp_path / "spec").iterdir())) == 1
    monkeypatch.delenv("SSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert pair_cache.cache_folder() == tmp_path / "xdg" / "ssl-pretraining"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pair_cache.cache_folder() == tmp_path / "home" / ".cache" / "ssl-pretraining"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert pair_cache.cache_folder() is None
    assert len(open_pairs(path)) == 2


def open_many(path: Path, start: multiprocessing.synchronize.Barrier, results: multiprocessing.queues.Queue) -> None:
    start.wait(60)
    results.put([len(open_pairs(path)) for _ in range(20)])


def test_ranks_that_open_at_once_do_not_meet(cache: Path, tmp_path: Path) -> None:
    tar(tmp_path / "s" / "0.tar", some(200))
    tar(tmp_path / "s" / "1.tar", some(100))
    fork = multiprocessing.get_context("fork")
    start, results = fork.Barrier(4), fork.Queue()
    ranks = [fork.Process(target=open_many, args=(tmp_path / "s", start, results)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    assert [results.get(timeout=60) for _ in ranks] == [[300] * 20] * 4
    for rank in ranks:
        rank.join()
    assert [path.suffix for path in cache.iterdir()] == [".index"] * 2


def test_progress_is_said_only_when_it_takes_long(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        tar(tmp_path / "s" / f"{number}.tar", some(1))
    open_pairs(tmp_path / "s")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("data.progress.LINE_EVERY_S", 0)
    open_pairs(tmp_path / "s")
    assert re.fullmatch(r"indexing shards: 3/3, [0-9.e+]+/s, 00:00 left", capsys.readouterr().err.splitlines()[-1])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert len(open_pairs(tmp_path / "s")) == 3
