"""Runs pretrain.py as a user does, in a process of its own, and reads what a run leaves behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--epochs", "2", "--images", "80", "--batch-size", "16", "--log-every", "1", "--save-every", "2"]
STEPS = 10
QUIET = ["--heatmap-every", "0", "--no-evaluate"]


def environment() -> dict[str, str]:
    """Returns the environment with one thread and no launcher's variables: sums in one order on any machine."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in names and not key.startswith("SLURM_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def start(out: Path, *flags: str, recipe: str = "demo", ranks: int = 1) -> subprocess.Popen[str]:
    """Starts a run, under torchrun where there is more than one rank; both outputs are in `stdout`."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"] if ranks > 1 else []
    command = [sys.executable, *launcher, "pretrain.py", recipe, "--out", str(out), *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str]:
    """Returns (exit code, output) once the run has ended."""
    try:
        text, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()  # one that hangs would take a core from every test after it
        raise
    return process.returncode, text


def run(out: Path, *flags: str, recipe: str = "demo", ranks: int = 1) -> tuple[int, str]:
    """Returns (exit code, output) of a run."""
    return finish(start(out, *flags, recipe=recipe, ranks=ranks))


def change_recipes(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Replaces fields of every recipe that is loaded in this process: those for which no recipe has a knob."""
    import recipes

    load = recipes.load

    def load_changed(name: str) -> Any:
        function = load(name)

        @wraps(function)  # the knobs are read from its signature
        def changed(**knobs: Any) -> Any:
            return dataclasses.replace(function(**knobs), **fields)

        return changed

    monkeypatch.setattr(recipes, "load", load_changed)


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Waits until `step` updates are on record."""
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if any(json.loads(line)["step"] >= step for line in lines if line.endswith("}")):
            return
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[0]}")
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def weights(out: Path) -> str:
    """Returns the digest of the exported encoder."""
    return hashlib.sha256((out / "encoder" / "model.safetensors").read_bytes()).hexdigest()


def losses(out: Path) -> dict[int, float]:
    """Returns the loss by step; a step that was repeated must have given the same loss to the bit."""
    found: dict[int, float] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "loss" in record:
            assert found.setdefault(record["step"], record["loss"]) == record["loss"]
    return found


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the events of one kind, in order."""
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
