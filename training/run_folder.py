"""A run's folder: what it holds, whose it is, and the record of each attempt at it. Readable without any tool."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .atomic import write_json_atomic
from .recipe import first_difference

FORMAT = 1
DIFF_LIMIT = 1_000_000  # characters of `git diff` kept
REPOSITORY = Path(__file__).parents[1]


def open_run(folder: Path, name: str, knobs: dict[str, Any], described: dict[str, Any], source_text: str) -> bool:
    """Claims `folder` for this run, or finds that it is this run's already; returns True if there is something to
    resume.

    Raises:
        ValueError: the folder holds another run (the first differing field is named) or other files, or cannot be
        written.
            Nothing in it is changed.
    """
    record = folder / "recipe.json"
    if record.is_file():
        try:
            old = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--out {folder}: recipe.json is damaged ({error}); move the folder away") from None
        if old["recipe"] != name:
            raise ValueError(f"--out {folder} holds a run of {old['recipe']}, not of {name}: take another folder")
        different = first_difference(old["described"], described)
        if different:
            raise ValueError(f"--out {folder} holds another run: {different}. Take another folder, or the old values")
        return True
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--out {folder} holds other files and no recipe.json: take an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(
            record,
            {"format": FORMAT, "recipe": name, "knobs": knobs, "described": described, "source_text": source_text},
        )
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror or error}") from None
    return False


def record_attempt(folder: Path, world_size: int, device: torch.device, place: dict[str, Any]) -> int:
    """Adds this attempt to environment.json (versions, code, command, hardware); returns its number, from 1."""
    path = folder / "environment.json"
    attempts = json.loads(path.read_text(encoding="utf-8"))["attempts"] if path.is_file() else []
    attempts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "folder": str(Path.cwd()),
            "place": {key: str(value) if isinstance(value, Path) else value for key, value in place.items()},
            "world_size": world_size,
            "versions": {"python": platform.python_version(), **_versions()},
            "git": _git(),
            "hardware": _hardware(device),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        }
    )
    write_json_atomic(path, {"attempts": attempts})
    return len(attempts)


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "wandb", "submitit", "tyro")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git() -> dict[str, str | None]:
    def run(*command: str) -> str | None:
        try:
            done = subprocess.run(
                ("git", *command), cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    commit = run("rev-parse", "HEAD")
    diff = run("diff", "HEAD")
    return {"commit": commit.strip() if commit else None, "diff": diff[:DIFF_LIMIT] if diff else diff}


def _hardware(device: torch.device) -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, f": {model}").split(":", 1)[1].strip()
    return {
        "host": platform.node(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }
