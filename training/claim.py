"""One process at a time trains a run: the same command started twice is refused, and a run whose process died is free.

Two at once would end at the same weights, but each removes the other's checkpoints and every line stands twice in the
record. A lock of the system says who is there, and is gone with its process however that ends. But over a network the
lock of a host that died may outlive it, so the lock of another host alone keeps nobody from resuming: its holder must
have come lately, or be seen to live. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = ".claim"
PATIENCE_S = 30.0  # several beats, and the time for which NFS may show an old file
STARTING_S = (
    600.0  # in which a run copies its shards, compiles, and makes the first step, before which it does not beat
)

_held: dict[Path, int] = {}  # open files: closing one would give its folder back


def take(folder: Path, pulse: Path, say: Callable[[str], object], patience: float | None = None) -> None:
    """Claims a run folder for this process until it ends, if the folder is there. The main rank does so, for all.

    Where the file system has no locks (Lustre without its mount option `flock`), nothing is claimed or refused.

    Args:
        folder: the run folder.
        pulse: a file that whoever trains there writes anew every few seconds.
        say: is given a line about a holder that is waited for.
        patience: seconds in which a holder may end, or shows that it lives; None: PATIENCE_S.

    Raises:
        ValueError: another process trains there, and goes on doing so.
    """
    if folder in _held or not folder.is_dir():
        return
    try:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:  # the first file that matters says why
        return
    try:
        if not _lock(file):
            _wait(file, folder, pulse, say, PATIENCE_S if patience is None else patience)
    except BaseException:
        os.close(file)
        raise
    _held[folder] = file
    with contextlib.suppress(OSError):  # a full disk: the holder has no name, that is all
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(_ourselves()).encode() + b"\n", 0)


def _lock(file: int) -> bool:
    """Returns False where another process has it; True, too, where there are no locks.

    Such a lock is the process's own: data workers that outlive a kill do not hold it.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _wait(file: int, folder: Path, pulse: Path, say: Callable[[str], object], patience: float) -> None:
    """Returns when the holder has ended, or has shown no sign of life, or is an earlier start of the same job.

    On this host the lock itself is one. Slurm starts a job again when it has lost its node, whose processes may live
    for a while.

    Raises:
        ValueError: it lives.
    """
    before, ours = _beat(pulse), _ourselves()
    say(f"{folder} is being trained by {_named(_note(file))}; waiting {patience:g} s for its end")
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(0.5, patience / 10))
        if _lock(file):
            return
    note = _note(file)  # by now whoever came a moment before us has left one
    holder, recent = _named(note), time.time() - note.get("since", 0) < STARTING_S
    if note.get("job") and note["job"] == ours["job"] and note["restart"] != ours["restart"]:
        say(f"{holder} is an earlier start of this job: going on without it")
    elif note.get("host") == ours["host"] or recent or _beat(pulse) != before:
        raise ValueError(
            f"--out {folder} is being trained by {holder}: one process trains a run at a time. "
            "Stop that one (it saves), or take another folder"
        )
    else:
        say(f"{holder} has given no sign of life for {patience:g} s: going on without it")


def _beat(pulse: Path) -> bytes:
    try:
        return pulse.read_bytes()
    except OSError:
        return b""


def _ourselves() -> dict[str, Any]:
    job, restart = (os.environ.get(name) or "" for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    host = os.environ.get("SLURMD_NODENAME") or platform.node()
    return {"host": host, "pid": os.getpid(), "job": job, "restart": restart, "since": time.time()}


def _note(file: int) -> dict[str, Any]:
    """Returns what the holder left, {} where it has only just come."""
    try:
        return json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}


def _named(note: dict[str, Any]) -> str:
    if not note:
        return "another process"
    job = f" (job {note['job']})" if note["job"] else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note["since"]))
    return f"process {note['pid']} on {note['host']}{job}, since {since}"
