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
OF_LAUNCHERS = ("slurm", ".rendezvous")  # may be in a run folder before the run is


def find_run(folder: Path, name: str, described: dict[str, Any]) -> bool:
    """Returns whether `folder` holds this very run already; False: it is empty or not there. Writes nothing.

    Raises:
        ValueError: the folder holds another run (the first differing field is named) or other files, or cannot be
            written.
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
            remedy = "the old values"
            if different.startswith("view_execution"):
                was, now = (each.get("view_execution", "reference") for each in (old["described"], described))
                remedy = "--resident" if was == "resident" else f"--views {was}"
                remedy += " without --resident" if now == "resident" else ""
            raise ValueError(f"--out {folder} holds another run: {different}. Take another folder, or {remedy}")
        return True
    if folder.is_dir() and any(path.name not in OF_LAUNCHERS for path in folder.iterdir()):
        raise ValueError(f"--out {folder} holds other files and no recipe.json: take an empty or a new folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out {folder} cannot be written: {there} is no folder that you may write to")
    return False


def open_run(folder: Path, name: str, knobs: dict[str, Any], described: dict[str, Any], source_text: str) -> bool:
    """Claims `folder` for this run, or finds that it is this run's already; returns True if there is something to
    resume.

    Raises:
        ValueError: as `find_run`. Nothing in the folder is changed.
    """
    if find_run(folder, name, described):
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(
            folder / "recipe.json",
            {"format": FORMAT, "recipe": name, "knobs": knobs, "described": described, "source_text": source_text},
        )
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror or error}") from None
    return False


def describe_host(device: torch.device) -> dict[str, Any]:
    """Returns what this rank runs on: host, versions, hardware."""
    return {
        "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": _hardware(device),
    }


def different_versions(hosts: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each library whose version is not rank 0's on every rank: numbers may then differ, too."""
    lines = []
    for library, version in hosts[0]["versions"].items():
        others = {host["host"]: host["versions"].get(library) for host in hosts}
        odd = [f"{found} on {name}" for name, found in others.items() if found != version]
        if odd:
            lines.append(f"{library} is {version} on {hosts[0]['host']} but {', '.join(odd)}")
    return lines


def record_attempt(
    folder: Path, hosts: list[dict[str, Any]], place: dict[str, Any], store: dict[str, Any] | None = None
) -> int:
    """Adds this attempt to environment.json (versions, code, command, hardware); returns its number, from 1.

    Args:
        hosts: `describe_host` of every rank. Ranks whose versions are not rank 0's are listed one by one.
        store: the packed set that is read, if it is one.
    """
    path = folder / "environment.json"
    attempts = json.loads(path.read_text(encoding="utf-8"))["attempts"] if path.is_file() else []
    attempts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "folder": str(Path.cwd()),
            "place": {key: str(value) if isinstance(value, Path) else value for key, value in place.items()},
            "store": store,
            "world_size": len(hosts),
            "nodes": list(dict.fromkeys(host["host"] for host in hosts)),
            "versions": hosts[0]["versions"],
            "other_versions": {
                str(rank): host["versions"]
                for rank, host in enumerate(hosts)
                if host["versions"] != hosts[0]["versions"]
            },
            "git": _code(),
            "hardware": hosts[0]["hardware"],
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


def _code() -> dict[str, Any]:
    """Returns the commit and what differs from it: of the snapshot this runs from, else of the repository."""
    snapshot = REPOSITORY / "snapshot.json"
    if snapshot.is_file():
        return json.loads(snapshot.read_text(encoding="utf-8"))
    return _git()


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
