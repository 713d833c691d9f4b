"""Jobs on the test cluster: the stand-in training and the real one, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from slurm import history
from tests.runs import ROOT
from tests.slurm.cluster import Cluster

TOY = Path(__file__).with_name("toy.py")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "GONE"}


def toy(
    cluster: Cluster,
    run: Path,
    *flags: str,
    options: Iterable[str] = ("--nodes=2", "--ntasks-per-node=1"),
    task: Iterable[str] = (),
    partition: str = "low",
) -> str:
    """Queues the stand-in training as `slurm.submit` queues the real one; returns the job's number."""
    log = run / "slurm"
    log.mkdir(parents=True, exist_ok=True)
    python = [sys.executable, "-u"]
    words = [*python, ROOT / "slurm" / "task.py", "--run", run, *task, "--", *python, TOY, "--run", run, *flags]
    after = [*python, ROOT / "slurm" / "after.py", "--run", run, "--code"]
    srun = f"srun --kill-on-bad-exit=1 --wait=0 -o {log}/%j_%t.out -e {log}/%j_%t.err"
    script = run.parent / f"{run.name}.sbatch"
    script.write_text(f"#!/bin/bash\n{srun} {shlex.join(map(str, words))}\n{shlex.join(map(str, after))} $?\n")
    options = ["-p", partition, "--requeue", "--open-mode=append", "--signal=USR2@45", "--mem=100", *options]
    return cluster.command("sbatch", "--parsable", "-o", f"{log}/batch.log", *options, str(script)).strip()


def toy_result(steps: int) -> str:
    """Returns the digest of an undisturbed run of that many steps."""
    digest = ""
    for step in range(steps):
        digest = hashlib.sha256(f"{digest} {step}".encode()).hexdigest()
    return digest


def until(found: Callable[[], Any], seconds: float, what: str, run: Path | None = None) -> Any:
    """Returns what `found` gives, as soon as it is true.

    Raises:
        TimeoutError: after `seconds`, with what the run has logged.
    """
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s\n{logs(run) if run else ''}")
        time.sleep(0.05)
    return value


def toy_step(run: Path) -> int:
    """Returns the last step that rank 0 made."""
    try:
        return int((run / "step").read_text() or 0)
    except (OSError, ValueError):
        return 0


def step(run: Path) -> int:
    """Returns the last step that is on record, 0 before."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the lines of the history of one kind."""
    return [line for line in history.read(run) if line["event"] == kind]


def logs(run: Path) -> str:
    """Returns all that the run's jobs have logged."""
    paths = sorted(
        path for path in (run / "slurm").glob("*") if path.is_file() and path.suffix in (".out", ".err", ".log")
    )
    parts = [f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in paths]
    return "\n".join([*parts, *map(str, history.read(run))])


def note_figures(row: str, **seconds: float) -> None:
    """Adds measured figures to the file $FAULT_FIGURES names, if it does; benchmarks/faults.py makes a table of it."""
    place = os.environ.get("FAULT_FIGURES")
    if place:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": row, **seconds}) + "\n")
