"""Goals G1 to G6 of docs/speed.md, measured on one GPU in one call of under ten minutes.

    python -m benchmarks.gpu [--data IMAGENET] [--official CHECKOUT] [--minutes 9] [--json FILE]
    python -m benchmarks.gpu --toy                 the same at toy size on a CPU: that it runs, not how fast

Everything is pretrain.py's own loop (`benchmarks/profile.py`) on the real recipes, each run a process of its own with a
limit of its own: what fails or takes too long is said in its row, and the others go on. Without --data, JPEGs of
ImageNet's usual sizes are generated first. Times are the device's, by CUDA events. Without a GPU the table says what is
owed, and by which command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import loop, official_step, profile
from benchmarks.generated import make_images
from benchmarks.losses import ROOT

RESNET, VIT = "barlow_twins_rn50", "barlow_twins_vits16"
LARGE = (2048, 1536, 1024)  # batches of G6: the first that fits


@dataclass(frozen=True)
class Run:
    """One process: what it is called in the JSON, its module and arguments, and the seconds it may take."""

    name: str
    module: Any  # offers measure(arguments)
    arguments: tuple[str, ...]
    limit_s: float

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module.__name__, *self.arguments]


def runs(options: argparse.Namespace, data: Path) -> list[Run]:
    """Returns all runs, the most wanted first; those of G6 follow by what fits."""
    rows = ["--data", str(data), "--batch-size", str(options.batch_size)]
    resnet, vit = [RESNET, *rows], [VIT, *rows]
    steps = ["--steps", str(options.steps)]
    # Workers are ahead when a run starts: that has to be used up before a wait for data shows.
    ahead = ["--workers", str(options.workers), "--steps", str(2 * options.steps), "--warmup", "40"]
    small: list[str] = []
    compiled = ["--compile", "--no-deterministic"]  # cuDNN may time its algorithms, as in the official code
    official = ["--batch-size", str(options.batch_size), *steps]
    if options.toy:
        small, compiled = ["--size", "32", "--width", "64", "--warmup", "1", "--device", "cpu"], []
        resnet += ["--backbone", "test_resnet"]
        ahead = steps
        official += [*small, "--backbone", "resnet18"]
    if options.official:
        official += ["--official", str(options.official)]
    alone = [*steps, *small, "--model-only", "--workers", str(min(options.workers, 1))]
    ahead += small
    return [
        Run("resnet50 model only", profile, (*resnet, *alone), 60),
        Run("resnet50", profile, (*resnet, *ahead), 75),
        Run("vit model only", profile, (*vit, *alone), 60),
        Run("vit", profile, (*vit, *ahead), 75),
        Run("official resnet50", official_step, tuple(official), 60),
        Run("resnet50 compiled model only", profile, (*resnet, *alone, *compiled), 150),
        Run("vit compiled", profile, (*vit, *ahead, *compiled), 120),
    ]


def large(options: argparse.Namespace, data: Path, rows: int) -> Run:
    """Returns the run of G6 at a batch of `rows`."""
    arguments = [RESNET, "--data", str(data), "--workers", str(min(options.workers, 1)), "--batch-size", str(rows)]
    arguments += ["--recompute", "--model-only", "--steps", str(min(options.steps, 6)), "--warmup", "2"]
    if options.toy:
        arguments += ["--size", "32", "--width", "64", "--device", "cpu", "--backbone", "test_resnet"]
    return Run(f"resnet50 batch {rows}", profile, tuple(arguments), 90)


def execute(run: Run, seconds: float, isolated: bool) -> dict[str, Any]:
    """Returns what the run measured, or {"failed": why}.

    Args:
        seconds: it may take; a process that takes longer is ended, with its workers.
        isolated: in a process of its own; else in this one, without a limit (toy size).
    """
    if not isolated:
        try:
            return run.module.measure(list(run.arguments))
        except RuntimeError as error:
            return {"failed": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "result.json"
        process = subprocess.Popen(
            [*run.command(), "--json", str(written)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"failed": f"took more than its {seconds:.0f} s"}
        if process.returncode or not written.exists():
            return {"failed": f"exit code {process.returncode}: {reason(said)}"}
        return json.loads(written.read_text())


def reason(said: str) -> str:
    """Returns the line of an output that says most: the one that names an error, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line or "out of memory" in line]
    return (named or lines or ["no output"])[-1][:300]


def measure(options: argparse.Namespace, data: Path, began: float) -> dict[str, dict[str, Any]]:
    """Returns the result of each run, by name, within the minutes allowed."""
    results: dict[str, dict[str, Any]] = {}

    def take(run: Run) -> dict[str, Any]:
        left = 60 * options.minutes - (time.monotonic() - began)
        print(f"{run.name}: {' '.join(run.command()[1:])}", file=sys.stderr, flush=True)
        if left < 15:
            results[run.name] = {"failed": f"not started: the {options.minutes:g} minutes are over"}
        else:
            results[run.name] = execute(run, min(run.limit_s, left), isolated=not options.toy)
        return results[run.name]

    *first, last = runs(options, data)
    for run in first:
        take(run)
    for rows in [options.batch_size] if options.toy else LARGE:
        if "failed" not in take(large(options, data, rows)):
            break
    take(last)
    return results


# ---- goals


def ratio(over: list[float], under: list[float]) -> str:
    """Returns median(over) / median(under), with the lowest and highest that single steps give."""
    middle = statistics.median(under)
    low, high = (statistics.median(over) / bound for bound in (max(under), min(under)))
    return f"{statistics.median(over) / middle:.3f} ({low:.3f} to {high:.3f})"


def share(result: dict[str, Any], *parts: str) -> str:
    """Returns what the parts take of all time, with the lowest and highest of single steps."""
    each = [sum(step[part] for part in parts) / sum(step.values()) for step in result["steps"]]
    whole = sum(profile.step_s(result))
    middle = sum(step[part] for step in result["steps"] for part in parts) / whole
    return f"{100 * middle:.1f} % ({100 * min(each):.1f} to {100 * max(each):.1f})"


def rate(result: dict[str, Any]) -> str:
    """Returns images a second, with those of the slowest and fastest step."""
    steps = profile.step_s(result)
    middle, low, high = (result["rows"] / s for s in (statistics.median(steps), max(steps), min(steps)))
    return f"{middle:,.0f} images/s ({low:,.0f} to {high:,.0f})"


def end_to_end(found: dict[str, Any], name: str) -> str:
    whole, alone = found[name], found[f"{name} model only"]
    ours = ratio(profile.step_s(alone), profile.step_s(whole))
    return f"{ours}; data wait {share(whole, 'data wait')}; {rate(whole)}"


def biggest(found: dict[str, Any]) -> str:
    name = next(name for name in found if name.startswith("resnet50 batch") and "failed" not in found[name])
    result, small = found[name], found["resnet50 model only"]
    each, other = ([s / r["rows"] for s in profile.step_s(r)] for r in (result, small))
    memory = f"{result['peak_bytes'] / 2**30:.1f} GiB" if result["peak_bytes"] else "memory: GPU only"
    cost = f"{ratio(each, other)} of the time an image of batch {small['rows']} without it"
    return f"batch {result['rows']} fits, {memory}, {cost}"


ROWS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "G1 ResNet-50": ("model-only step / step >= 0.90, data wait < 3 %", lambda found: end_to_end(found, "resnet50")),
    "G1 ViT-S/16": ("the same", lambda found: end_to_end(found, "vit")),
    "G2": ("H200, ViT-S/16, two views: >= 2,400 images/s", lambda found: rate(found["vit"])),
    "G2 compiled": ("the same with --compile --no-deterministic", lambda found: rate(found["vit compiled"])),
    "G3 ResNet-50": ("views on the device <= 3 % of the step", lambda found: share(found["resnet50"], "views")),
    "G3 ViT-S/16": ("the same", lambda found: share(found["vit"], "views")),
    "G3 compiled": ("ViT-S/16 with --compile --no-deterministic", lambda found: share(found["vit compiled"], "views")),
    "G4": (
        "official fp16 eager NCHW step / ours, channels_last, bf16, --compile --no-deterministic >= 1.8",
        lambda found: ratio(
            found["official resnet50"]["seconds"], profile.step_s(found["resnet50 compiled model only"])
        ),
    ),
    "G4 eager": (
        "the same without the two flags",
        lambda found: ratio(found["official resnet50"]["seconds"], profile.step_s(found["resnet50 model only"])),
    ),
    "G5": (
        "loss, its backward and optimiser <= 2 % of the step, D = 8192",
        lambda found: share(found["resnet50 model only"], "loss", "optimiser"),
    ),
    "G6": ("batch 2048 of the ResNet-50 recipe on one GPU of 141 GB, --recompute", biggest),
}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns a row a goal: what was measured, or why it was not."""
    lines = ["| goal | what | measured |", "|---|---|---|"]
    for name, (what, value) in ROWS.items():
        try:
            measured = value(found)
        except (KeyError, StopIteration):  # a run it needs has failed
            failed = [f"{run}: {result['failed']}" for run, result in found.items() if "failed" in result]
            measured = f"not measured; failed: {'; '.join(failed)}"
        lines.append(f"| {name} | {what} | {measured} |")
    return "\n".join(lines)


def owed() -> str:
    """Returns the table of a machine without a GPU."""
    lines = ["| goal | what | measured |", "|---|---|---|"]
    command = "owed: `python -m benchmarks.gpu --json gpu.json` on a machine with a GPU"
    return "\n".join(lines + [f"| {name} | {what} | {command} |" for name, (what, _) in ROWS.items()])


def main(arguments: list[str]) -> int:
    """Prints the table; returns the exit code: 1 where a run failed."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="ImageNet, or a tree like it; default: generated JPEGs")
    add("--images", type=int, default=4096, help="how many are generated (default %(default)s)")
    add("--official", type=Path, help="a checkout of facebookresearch/barlowtwins; default: a transcription")
    add("--batch-size", type=int, default=256, help="of all runs but G6 (default %(default)s)")
    add("--steps", type=int, default=30, help="measured steps of a run (default %(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="default: the machine's cores, %(default)s")
    add("--minutes", type=float, default=9.0, help="of the whole call (default %(default)s)")
    add("--toy", action="store_true", help="tiny sizes on a CPU")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    if not options.toy and not torch.cuda.is_available():
        print(owed())
        return 0
    if options.toy:
        options.batch_size, options.steps, options.workers, options.images = 8, 2, 0, 32
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data = Path(folder)
            make_images(data, options.images, options.toy)
        found = measure(options, data, began)
    about = loop.about(options.steps, not options.toy)
    about["images"] = str(options.data) if options.data else f"{options.images} generated JPEGs"
    about["official"] = next((r["official"] for r in found.values() if "official" in r), "not run")
    about["seconds"] = round(time.monotonic() - began, 1)
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    print(table(found))
    if options.json:
        rows = dict(zip(ROWS, table(found).splitlines()[2:], strict=True))
        options.json.write_text(json.dumps({**about, "rows": rows, "runs": found}, indent=1) + "\n")
    return int(any("failed" in result for name, result in found.items() if "batch" not in name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
