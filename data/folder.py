"""A folder of images, one folder a class: searched once, then read from the list that was kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from . import cache
from .progress import progress
from .sets import SUFFIXES, Files

FORMAT = 1  # one more whenever the list of an unchanged folder would be another
KIND = "folder"
THREADS = 8  # a network disk is waited for, not computed
# A folder that changes twice within one tick of its disk's clock (up to 2 s) looks the same after both. So a list is
# kept only if no folder in it had changed for longer than a tick and what two machines' clocks may differ by.
SETTLED_S = 10

Times = list[int]  # a folder's last change and last change of its status, in ns: the second cannot be set by anyone


def scan(folder: Path) -> Files:
    """Returns the images of `folder/<class>/**` in the order of their paths: position i is the same on every machine.

    The list is kept (`data/cache.py`) and serves as long as no folder in it has changed: folders are asked for their
    times, not files.

    Raises:
        ValueError: the folder is missing, empty, flat, or a class has no images.
    """
    place, key = cache.cache_folder(), f"{cache.shown(folder)}\n{' '.join(SUFFIXES)}"
    if kept := cache.load(place, KIND, key):
        about, (counts, paths) = kept
        if about["format"] == FORMAT and _times(folder, about["folders"]) == list(about["folders"].values()):
            return Files(folder, tuple(map(_from_json, about["classes"])), paths, counts)
    began = time.time()
    folders: dict[str, Times] = {"": _time(folder)} if folder.is_dir() else {}
    classes = _classes(folder)
    found: list[bytes] = []
    sizes: list[int] = []
    for name in progress(classes, len(classes), f"listing {folder}"):
        images = sorted(map(os.fsencode, _images(folder, name, folders)))
        if not images:
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"--data: class {folder / name} has no images ({kinds}): remove it or fill it")
        found += images
        sizes.append(len(images))
    counts, paths = np.array(sizes), np.array(found)
    if max(max(times) for times in folders.values()) < (began - SETTLED_S) * 1e9:
        about = {"format": FORMAT, "classes": list(map(_to_json, classes)), "folders": folders}
        cache.save(place, KIND, key, about, [counts, paths])
    return Files(folder, classes, paths, counts)


def _classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of the class folders, in order. Raises ValueError where there are none."""
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        there = f"; {folder.parent} holds {', '.join(beside[:8])}" if beside else ""
        raise ValueError(f"--data: no folder {folder}{there}")
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    if not classes:
        loose = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
        if loose:
            raise ValueError(
                f"--data: {folder} is flat: {loose} images, no class folders. Move each into a folder named after "
                "its class (for ImageNet's val/: the synset folders that the devkit's ground truth lists)"
            )
        raise ValueError(f"--data: {folder} is empty: it should hold a folder a class, each with images")
    return classes


def _images(root: Path, inside: str, folders: dict[str, Times]) -> Iterator[str]:
    """Yields the paths of images under root/inside, from the root on; adds the times of each folder to `folders`."""
    place = root / inside
    folders[_to_json(inside)] = _time(place)  # before it is listed: a change in between is noticed the next time
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images(root, f"{inside}/{entry.name}", folders)
            elif entry.name.lower().endswith(SUFFIXES):
                yield f"{inside}/{entry.name}"


def _times(root: Path, folders: Iterable[str]) -> list[Times]:
    """Returns the times of each of the folders as they are now; [] for one that is gone."""

    def one(inside: str) -> Times:
        try:
            return _time(root / _from_json(inside))
        except OSError:
            return []

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, folders))


def _time(folder: Path) -> Times:
    status = folder.stat()
    return [status.st_mtime_ns, status.st_ctime_ns]


def _to_json(name: str) -> str:
    return os.fsencode(name).decode("latin1")  # any bytes may be in a name


def _from_json(name: str) -> str:
    return os.fsdecode(name.encode("latin1"))
