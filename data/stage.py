"""Shards copied to a disk of the node before training: one copy a node, checked, found again by the next start."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from parallel import World

from .packed import Packed
from .pair_part import Part, stamp_of
from .pairs import PairSet
from .parts import Parts
from .progress import progress
from .sets import ImageSet

THREADS = 4  # a network disk gives one reader less than it can
CHUNK = 2**23  # bytes
POLL_S = 0.2
DONE, BUSY, FAILED, STOPPED = range(4)  # what a rank says while it waits; the highest is done by all
LOCK, HALF = ".stage.lock", ".tmp"

Staged = TypeVar("Staged", bound=ImageSet)


class _Cancelled(Exception):  # noqa: N818  (nobody sees it)
    """Another rank has given up."""


def shards_of(images: ImageSet, where: Path | None) -> list[Part]:
    """Returns the shards that a set reads, which --stage would copy.

    Raises:
        ValueError: it reads other files.
    """
    if isinstance(images, Packed | PairSet) and all(part.stamp for part in images.parts.parts):
        return images.parts.parts
    if isinstance(images, PairSet):
        remedy = "its pairs are single files: put them into .tar shards (docs/image-text-data.md)"
    else:
        remedy = "it is no packed set: python -m data.pack SRC DST makes one (docs/stores.md)"
    has = f"--data {where} has" if where else "this recipe, which draws its images, reads"
    raise ValueError(f"--stage copies shards, and {has} none: {remedy if where else 'leave it out'}")


def stage(images: Staged, folder: str, world: World, stopped: Callable[[], str | None]) -> Staged | str:
    """Returns the set as read from copies of its shards in a folder of this node; what stopped it, if that came first.

    Whichever rank of a node comes first copies, the others wait and then look whether all is there; all ranks return
    together. However long it takes, none of them gives up: they exchange a word several times a second.

    Args:
        folder: on a disk of the node; $VARIABLES in it are the node's.
        stopped: asked again and again; a name as soon as the run should stop.

    Raises:
        ValueError: on all ranks: a variable that is not set, too little room, a shard that is gone, changed or
            damaged, a disk that cannot be written.
    """
    assert isinstance(images, Packed | PairSet)
    parts, cancel = images.parts.parts, threading.Event()
    failure: list[str] = []

    def work() -> None:
        try:
            fetch(parts, expand(folder), checksums(images), cancel)
        except _Cancelled:
            pass
        except ValueError as error:
            failure.append(str(error))
        except OSError as error:
            failure.append(f"--stage {folder}: {error.filename or ''} {error.strerror or error}")

    thread = threading.Thread(target=work, daemon=True)  # it may wait for another process's lock when all is given up
    thread.start()
    try:
        while True:
            notice = stopped()
            busy = thread.is_alive()
            state = world.highest(STOPPED if notice else FAILED if failure else BUSY if busy else DONE)
            if state == STOPPED:
                return next(found for found in world.collect(notice) if found)
            if state == FAILED:
                raise ValueError(next(found for found in world.collect(failure[0] if failure else None) if found))
            if state == DONE:
                break
            time.sleep(POLL_S)
    finally:
        cancel.set()
    moved = copy.copy(images)
    moved.parts = Parts([part.moved(target(expand(folder), part.path)) for part in parts])
    return moved


def expand(folder: str) -> Path:
    """Returns the path with variables in place. Raises ValueError for one that is not set."""
    path = os.path.expandvars(folder)
    if "$" in path or not path:
        raise ValueError(f"--stage {folder}: a variable in it is not set on {os.uname().nodename}")
    return Path(path)


def target(place: Path, shard: Path) -> Path:
    """Returns where a shard's copy is: its whole path again, so that no two shards meet there."""
    return place.joinpath(*shard.absolute().parts[1:])


def checksums(images: ImageSet) -> dict[Path, str]:
    """Returns the sha256 of each shard of a packed set; of pairs none is known."""
    if not isinstance(images, Packed):
        return {}
    return {images.root / shard.file: shard.sha256 for split in images.store.splits.values() for shard in split.shards}


def fetch(parts: list[Part], place: Path, sha256: dict[Path, str], cancel: threading.Event) -> int:
    """Copies those shards that are not there yet as they are; returns their bytes. Others that do so at once wait.

    Raises:
        ValueError: too little room, or a shard that is not what was indexed.
        OSError: a disk that cannot be read or written.
    """
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place / LOCK):
        missing = [part for part in parts if not _is_there(target(place, part.path), part)]
        for folder in {target(place, part.path).parent for part in missing}:
            folder.mkdir(parents=True, exist_ok=True)
            for killed in folder.glob(f".*{HALF}"):  # nobody else writes while we hold the lock
                killed.unlink()
        for part in missing:
            target(place, part.path).unlink(missing_ok=True)  # an older one; whoever reads it goes on reading it
        size = sum(_size(part) for part in missing)
        free = shutil.disk_usage(place).free
        if size > free:
            raise ValueError(
                f"--stage {place}: {len(missing)} shards of {size / 1e9:.1f} GB are to be copied there, and there is "
                f"room for {free / 1e9:.1f} GB: take another disk, or train without --stage"
            )

        def one(part: Part) -> None:
            _copy(part, target(place, part.path), sha256.get(part.path), cancel)

        pool = ThreadPoolExecutor(THREADS)
        try:
            copied = zip(missing, pool.map(one, missing), strict=True)
            for _ in progress(copied, size, f"copying to {place}", lambda pair: _size(pair[0]), "B"):
                pass
        except BaseException:
            cancel.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return size


def _copy(part: Part, to: Path, sha256: str | None, cancel: threading.Event) -> None:
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}{HALF}")
    digest = hashlib.sha256()
    try:
        with part.path.open("rb") as source, temporary.open("xb") as out:
            status = os.fstat(source.fileno())
            if stamp_of(status) != part.stamp:
                raise ValueError(f"{part.path}: changed since it was indexed: start again, and it is indexed anew")
            while chunk := source.read(CHUNK):
                if cancel.is_set():
                    raise _Cancelled
                out.write(chunk)
                if sha256:
                    digest.update(chunk)
            out.flush()
            os.fsync(out.fileno())
        if sha256 and digest.hexdigest() != sha256:
            folder = part.path.parent.parent
            raise ValueError(f"{part.path}: not the bytes that were packed: python -m data.pack --verify {folder}")
        os.utime(temporary, ns=(status.st_mtime_ns, status.st_mtime_ns))  # by which the next start knows it
        temporary.replace(to)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_there(path: Path, part: Part) -> bool:
    try:
        return stamp_of(path.stat()) == part.stamp
    except OSError:
        return False


def _size(part: Part) -> int:
    assert part.stamp is not None
    return part.stamp[0]


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """Holds a lock that ends with this process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
