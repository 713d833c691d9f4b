"""How the ranks of a Slurm step find each other: no fixed port, nothing stale, no network name to configure.

Rank 0 lets the system choose a free port and publishes it in a note in the run folder, under a name that only this
start of this job has. A port derived from the job's number can be taken, and a file that a crashed start left behind
sends the next one to nobody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore

FOLDER = ".rendezvous"
ATTEMPTS = 100


def slurm_store(run: Path, env: Mapping[str, str], rank: int, size: int, timeout: timedelta) -> TCPStore:
    """Returns the store by which `size` ranks exchange addresses; the same on all of them when it returns.

    Args:
        run: the run folder, on a disk that all nodes see.
        env: with Slurm's variables.

    Raises:
        ValueError: the note cannot be written, or none came within `timeout`.
    """
    note = run / FOLDER / key(env)
    if rank == 0:
        host = env.get("SLURMD_NODENAME") or os.uname().nodename
        store = TCPStore(host, 0, size, is_master=True, wait_for_workers=False, timeout=timeout)
        try:
            _write(note, f"{host} {store.port}")
        except OSError as error:
            raise ValueError(f"--out {run} cannot be written: {error.strerror or error}") from None
    else:
        host, port = _read(note, timeout)
        store = TCPStore(host, port, size, is_master=False, wait_for_workers=False, timeout=timeout)
    store.set(f"here/{rank}", "")
    for other in range(size):
        store.wait([f"here/{other}"], timeout)
    if rank == 0:  # everyone has read it
        with contextlib.suppress(OSError):
            note.unlink()
            note.parent.rmdir()
    return store


def key(env: Mapping[str, str]) -> str:
    """Returns a name that no other start has: job, restart and step."""
    return "-".join(env.get(name) or "0" for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"))


def _write(note: Path, text: str) -> None:
    draft = note.with_name(f"{note.name}.{secrets.token_hex(4)}.tmp")
    for attempt in range(ATTEMPTS):
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            break
        except FileNotFoundError:  # another start of this run has met, and removed the folder that was empty
            if attempt == ATTEMPTS - 1:
                raise
    draft.replace(note)


def _read(note: Path, timeout: timedelta) -> tuple[str, int]:
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        # Listing asks the file server; a look at the one name may be answered from a cache of its absence.
        with contextlib.suppress(OSError):
            if note.name in os.listdir(note.parent):  # noqa: PTH208
                host, port = note.read_text(encoding="utf-8").split()
                return host, int(port)
        time.sleep(0.1)
    raise ValueError(
        f"rank 0 left no note in {note.parent} within {timeout.total_seconds():.0f} s: is --out on a disk that all "
        "nodes see?"
    )
