"""Memory and time of `--chunks`: a batch K times larger in K chunks, against one chunk alone and the whole batch.

    python -m benchmarks.chunks [--rows 16] [--chunks 8] [--backbone vit_tiny_patch16_224] [--size 224] [--repeats 5]

One CLIP step, forward and backward, gradients in place, with a text tower of 4 layers; random pixels and captions.
Memory: peak resident size (VmHWM, reset through /proc/self/clear_refs) above the resident size before the step, one
warm-up done, the higher of two, each case in a process of its own where freed blocks go back to the system. The batch
itself lies in memory before the step and is not counted. Time: median over the repeats, cases in turn in one process.
Before anything is measured, the gradients of chunks and of the whole batch must agree. CPU, Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.losses import environment, resident
from data.captions import encode
from losses import NPairs
from models import Backbone, Bytes, Projection, TextTransformer
from objectives import Batch, ImageText, Step
from objectives.backward import Chunks, WholeBatch

CASES = ("one chunk", "chunks", "whole")
OFF = torch.amp.GradScaler("cpu", enabled=False)


def batch(rows: int, size: int) -> Batch:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, size, size, generator=random)
    text = encode(Bytes(64), [f"picture number {row} of many that are here" for row in range(rows)])
    return Batch((images,), torch.arange(rows), torch.zeros(rows, dtype=torch.int64), text)


def case(name: str, options: argparse.Namespace) -> tuple[Callable[[], Any], ImageText]:
    """Returns one step of the case, and its objective."""
    torch.manual_seed(0)
    text = TextTransformer(Bytes(64), 192, 4, 3)
    encoder = Backbone(options.backbone, {"img_size": options.size})
    objective = ImageText(encoder, text, Projection(256), Projection(256), NPairs())
    rows = batch(options.rows if name == "one chunk" else options.rows * options.chunks, options.size)
    take = Chunks(objective, "fp32", options.chunks) if name == "chunks" else WholeBatch(Step(objective))
    return lambda: take(rows, 0.0, OFF), objective


def peak_bytes(name: str, options: argparse.Namespace) -> int:
    """Returns the higher of two peaks of one step above the state before it; gradients are there already."""
    step, _ = case(name, options)
    step()
    peaks = []
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        step()
        peaks.append(resident("VmHWM") - before)
    return max(peaks)


def check_equal(options: argparse.Namespace) -> float:
    """Returns the relative difference of the gradients, chunks against whole. Stops where it is more than rounding."""
    grads = []
    for name in ("chunks", "whole"):
        step, objective = case(name, options)
        step()
        grads.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    difference = float((grads[0] - grads[1]).norm() / grads[1].norm())
    assert difference < 1e-5, difference
    return difference


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, default=16, help="of one chunk (default %(default)s)")
    add("--chunks", type=int, default=8, help="of the large batch (default %(default)s)")
    add("--backbone", default="vit_tiny_patch16_224", help="a timm ViT (default %(default)s)")
    add("--size", type=int, default=224, help="pixels of a side (default %(default)s)")
    add("--repeats", type=int, default=5, help="timed steps of each case (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--json", type=Path, help="also write everything to this file")
    add("--memory-of", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(peak_bytes(options.memory_of, options))
        return
    about = environment(options.threads, options.repeats)
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    difference = check_equal(options)
    print(f"gradients of chunks and whole batch differ by {difference:.1e} of their norm")
    memory = {}
    for name in CASES:
        command = [sys.executable, "-m", "benchmarks.chunks", *arguments, "--memory-of", name]
        variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        answer = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
        memory[name] = int(answer.stdout)
    steps = {name: case(name, options)[0] for name in CASES}
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"{'':<12}{'rows':>6}{'MiB':>9}{'/ one chunk':>13}{'seconds':>10}{'/ whole':>9}{'low-high':>14}")
    results = {}
    for name in CASES:
        rows = options.rows if name == "one chunk" else options.rows * options.chunks
        # by row, so that one chunk compares, too
        whole = rows / (options.rows * options.chunks)
        ratios = [own / (whole * other) for own, other in zip(seconds[name], seconds["whole"])]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        results[name] = {"rows": rows, "bytes": memory[name], "seconds": seconds[name], "time": [middle, low, high]}
        share = memory[name] / memory["one chunk"]
        line = f"{name:<12}{rows:>6}{memory[name] / 2**20:>9.1f}{share:>13.2f}{statistics.median(seconds[name]):>10.2f}"
        print(f"{line}{middle:>9.2f}{f'({low:.2f}-{high:.2f})':>14}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "difference": difference, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
