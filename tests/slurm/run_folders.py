"""Run folders as slurm.status finds them, written by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from slurm import history, status
from slurm.jobs import Job
from slurm.status_files import RunFiles

NOW = time.time()
RUNNING = Job("RUNNING", "", "n[1-2]", 3600.0)


def beat(run: Path, ago: float = 2.0, **fields: Any) -> None:
    content = {"time": NOW - ago, "phase": "training", "step": 300, "total_steps": 1000, "images_per_second": 2000.4}
    content |= {"seconds_left": 5000.0, "attempt": 1, "host": "n1", "pid": 1}
    run.mkdir(parents=True, exist_ok=True)
    (run / "heartbeat.json").write_text(json.dumps(content | fields))


def event(run: Path, name: str, ago: float, **fields: Any) -> None:
    history.append(run, name, **{"job": "7", "time": NOW - ago, **fields})


def look(run: Path, job: Job | None = None, answers: bool = True) -> dict[str, Any]:
    return status.look(RunFiles.read(run), job, answers, NOW)


def started(run: Path) -> Path:
    """Returns the folder of a run that was submitted and started an hour ago, and wrote nothing since."""
    event(run, "submitted", 3700, log=str(run / "slurm" / "7_0_log.err"))
    event(run, "start", 3600, restart=0, step=0, nodes="n[1-2]")
    return run
