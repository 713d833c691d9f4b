"""Reads what wandb wrote into a run folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def kept_id(folder: Path) -> str:
    """Returns the id under which the run is known to wandb."""
    return (folder / "wandb_id").read_text().strip()


def mirrored(folder: Path) -> list[dict[str, list[Any]]]:
    """Returns each of wandb's logs of the run folder, oldest first: its records by their type."""
    logs = []
    for log in sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.parent.name.split("run-")[1]):
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        records: dict[str, list[Any]] = {"history": []}
        for line in subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines():
            record = json.loads(line)
            records.setdefault(record["type"], []).append(record[record["type"]])
        logs.append(records)
    return logs


def steps(log: dict[str, list[Any]]) -> list[int]:
    """Returns the steps whose loss is in a log, in order."""
    return [line["item"]["step"] for line in log["history"] if "loss" in line["item"]]
