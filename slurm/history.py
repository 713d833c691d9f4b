"""What happened to a run on the cluster: RUN/slurm/history.jsonl, one JSON object a line, appended, never rewritten.

| event | written by | fields beside `time` |
|---|---|---|
| submitted | slurm.submit | job, command, nodes, ranks, code, log |
| start | the first rank's task | job, restart, step, nodes |
| stop | the first rank's task | job, restart, step, signal, verdict |
| failed | the task of the rank that failed first | job, restart, step, rank, host, reason, progress, verdict |
| failed | slurm.after, if all tasks ended at once | job, restart, step, reason, progress, verdict |
| code | slurm.snapshot | job, folder: what the job runs, taken at its first start |

`step` is that of the newest checkpoint: what the next start goes on from.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

FOLDER = "slurm"  # in the run folder
NAME = "history.jsonl"
CHECKPOINT = re.compile(r"step_(\d{8,})\.[0-9a-f]{32}\.pt")  # training/checkpoint.py says why


def append(run: Path, event: str, **fields: Any) -> None:
    """Adds a line; one write, so that lines of several processes do not mix.

    Raises:
        OSError: the run folder cannot be written.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": event, "time": time.time(), **fields}) + "\n"
    descriptor = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(run: Path) -> list[dict[str, Any]]:
    """Returns the lines, in the order they were written; a torn one (a disk was full) is left out."""
    path = run / FOLDER / NAME
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):  # the "12" of a torn "12}" is JSON, too
            lines.append(line)
    return lines


def saved_step(run: Path) -> int:
    """Returns the step of the newest checkpoint by its name, 0 without one. Does not verify it: that takes reading."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return 0
    steps = (CHECKPOINT.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in steps if match), default=0)


def is_done(run: Path) -> bool:
    """Returns whether the run is finished for good."""
    return (run / "done.json").is_file()


def fruitless_failures(run: Path) -> int:
    """Returns how many of the last failures, one after another, came without a new checkpoint."""
    count = 0
    for line in reversed(read(run)):
        if line["event"] == "failed":
            if line.get("progress"):
                break
            count += 1
        elif line["event"] == "submitted":  # somebody looked at it and tried again
            break
    return count
