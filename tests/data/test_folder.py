"""The kept list of a folder: it serves while nothing has changed, and nothing that changed goes unnoticed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import folder
from data.folder import scan


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Returns the folders that were listed, as it goes on; the cache is empty and the clock a minute ahead."""
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))
    clock = folder.time.time
    monkeypatch.setattr(folder.time, "time", lambda: clock() + 60)
    names: list[str] = []
    listing = folder._images

    def counted(root: Path, inside: str, folders: dict) -> object:
        names.append(inside)
        return listing(root, inside, folders)

    monkeypatch.setattr(folder, "_images", counted)
    return names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("ant/1.jpg", "ant/2.jpg", "bée/deep/er/3.jpg", "cat/4.png", "cat/note.txt"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "train" / "cat" / os.fsdecode(b"\xff.jpg")).touch()
    return tmp_path / "train"


def names(root: Path) -> list[str]:
    images = scan(root)
    return [f"{images.labels[i]} {images.classes[images.labels[i]]} {images.path(i)}" for i in range(len(images))]


def test_an_unchanged_folder_is_listed_once(listed: list[str], root: Path) -> None:
    first, found = scan(root), names(root)
    listed.clear()
    second = scan(root)
    assert listed == []
    assert names(root) == found
    assert second.classes == first.classes
    assert np.array_equal(second.labels, first.labels)
    assert found[0] == "0 ant ant/1.jpg"
    assert found[-1] == f"2 cat cat/{os.fsdecode(bytes([255]))}.jpg"


CHANGES: dict[str, Callable[[Path], object]] = {
    "file added": lambda root: (root / "ant" / "0.jpg").touch(),
    "file removed": lambda root: (root / "ant" / "1.jpg").unlink(),
    "file renamed": lambda root: (root / "ant" / "1.jpg").rename(root / "ant" / "9.jpg"),
    "file moved": lambda root: (root / "ant" / "1.jpg").rename(root / "cat" / "1.jpg"),
    "file added deep below": lambda root: (root / "bée" / "deep" / "er" / "0.jpg").touch(),
    "folder added deep below": lambda root: shutil.copytree(root / "ant", root / "bée" / "deep" / "new"),
    "class added": lambda root: shutil.copytree(root / "ant", root / "a"),
    "class removed": lambda root: shutil.rmtree(root / "bée"),
    "class renamed": lambda root: (root / "bée").rename(root / "bee"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str, listed: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(root)
    times = {path: path.stat() for path in (root, *root.rglob("*")) if path.is_dir()}
    CHANGES[change](root)
    for path, was in times.items():  # as rsync -a does: the time is set back, and would hide the change
        if path.is_dir():
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    after = names(root)
    assert after != before
    monkeypatch.setenv("SSL_CACHE", "/proc/nothing")
    assert after == names(root)


def test_what_changed_a_moment_ago_is_not_trusted(
    listed: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SSL_CACHE", str(tmp_path / "cache"))
    scan(root)
    assert not (tmp_path / "cache").exists()  # within the clock's tick a second change would look like the first


def test_a_damaged_or_foreign_list_is_never_used(
    listed: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = names(root)
    kept = next((tmp_path / "cache").iterdir())
    whole = kept.read_bytes()
    for damage in (whole[:-1], whole[:20], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        kept.write_bytes(damage)
        listed.clear()
        assert names(root) == found
        assert listed
        assert kept.read_bytes() == whole
    other = tmp_path / "other"
    shutil.copytree(root, other)
    (other / "ant" / "1.jpg").unlink()
    assert len(names(other)) == len(found) - 1
    theirs = next(path for path in (tmp_path / "cache").iterdir() if path != kept)
    shutil.copy(theirs, kept)
    assert names(root) == found
    monkeypatch.setattr(folder, "FORMAT", folder.FORMAT + 1)
    listed.clear()
    assert names(root) == found
    assert listed


def test_many_may_list_at_once(listed: list[str], root: Path, tmp_path: Path) -> None:
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(names(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [names(root)] * 8
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".index"]
