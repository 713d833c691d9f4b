"""Time and peak memory of each loss, forward and backward, against the plain transcription of the official formula.

    python benchmarks/losses.py [--rows 256 1024] [--features 2048] [--repeats 5] [--threads 1] [--json FILE]

Both run in one process on the same inputs and must agree in value and gradient before anything is measured. CPU only.

Time: median over the repeats, alternating which goes first; the ratio is the median of each repeat's own ratio, with
its lowest and highest. Only ratios carry over to another machine.

Memory: peak resident size (VmHWM, reset through /proc/self/clear_refs) of one forward and backward above the resident
size just before, inputs in place and one warm-up done; the higher of two. In a process of its own, where every freed
block of 64 KB or more goes back to the system (MALLOC_MMAP_THRESHOLD_). Unlike torch's profiler it sees scratch space
of the matrix products; it needs Linux: elsewhere the columns show "-".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, where `losses` would be this file
from losses import BarlowTwins, NPairs, NTXent, SampleCorrelation, VICReg

ROOT = Path(__file__).resolve().parents[1]
Formula = Callable[[Tensor, Tensor], Tensor]


# ---- the official formulas, as plainly as their papers' code computes them: one step after another, all of it stored


def copied_off_diagonal(c: Tensor) -> Tensor:
    """Returns a flat copy of the off-diagonal elements of `c` (n, n), which the official codes make."""
    n = len(c)
    return c.flatten()[1:].view(n - 1, n + 1)[:, :-1].flatten()


def barlow_twins(a: Tensor, b: Tensor) -> Tensor:
    norm = torch.nn.BatchNorm1d(a.shape[1], affine=False)
    c = norm(a).T @ norm(b)
    c.div_(len(a))
    return c.diagonal().add(-1).pow(2).sum() + 5.1e-3 * copied_off_diagonal(c).pow_(2).sum()


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    invariance = F.mse_loss(a, b)
    variance = covariance = torch.zeros(())
    for z in (a, b):
        z = z - z.mean(0)
        variance = variance + F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = covariance + copied_off_diagonal(z.T @ z / (len(z) - 1)).pow_(2).sum() / z.shape[1]
    return 25 * invariance + 25 * variance + covariance


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """SimCLR's four blocks of logits, each view masked out of its own row."""
    a, b = F.normalize(a), F.normalize(b)
    right, itself = torch.arange(len(a)), 1e9 * torch.eye(len(a))
    aa, bb, ab, ba = a @ a.T / 0.1 - itself, b @ b.T / 0.1 - itself, a @ b.T / 0.1, b @ a.T / 0.1
    return (F.cross_entropy(torch.cat([ab, aa], 1), right) + F.cross_entropy(torch.cat([ba, bb], 1), right)) / 2


def clip(a: Tensor, b: Tensor) -> Tensor:
    a, b = F.normalize(a), F.normalize(b)
    right = torch.arange(len(a))
    return (F.cross_entropy(a @ b.T / 0.07, right) + F.cross_entropy(b @ a.T / 0.07, right)) / 2


def sample_correlation(a: Tensor, b: Tensor) -> Tensor:
    c = F.layer_norm(a, a.shape[1:]) @ F.layer_norm(b, b.shape[1:]).T
    c.div_(a.shape[1])
    return 0.025 * (c.diagonal().add(-1).pow(2).sum() + 5e-3 * copied_off_diagonal(c).pow_(2).sum())


# ---- measuring


class Case(NamedTuple):
    """One loss at one size, with the formula it is measured against."""

    loss: Callable[[Tensor, Tensor], dict[str, Tensor]]
    official: Formula
    rows: int
    features: int

    def forms(self) -> tuple[Formula, Formula]:
        """Returns (official, ours), each (N, D), (N, D) -> scalar."""
        return self.official, lambda a, b: torch.stack(list(self.loss(a, b).values())).sum()

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Returns two related views (N, D) that want gradients."""
        random = torch.Generator().manual_seed(0)
        a, noise = torch.randn(2, self.rows, self.features, generator=random)
        return a.requires_grad_(), (a.detach() + noise).requires_grad_()


def cases(options: argparse.Namespace) -> list[Case]:
    wide = [(BarlowTwins(), barlow_twins), (VICReg(), vicreg), (SampleCorrelation(), sample_correlation)]
    narrow = [(NTXent(), nt_xent), (NPairs(), clip)]
    return [Case(*pair, rows, options.features) for pair in wide for rows in options.rows] + [
        Case(*pair, rows, options.contrastive_features) for pair in narrow for rows in options.contrastive_rows
    ]


def step(formula: Formula, a: Tensor, b: Tensor) -> None:
    """One forward and backward, gradients thrown away."""
    a.grad = b.grad = None
    formula(a, b).backward()


def check_equal(case: Case) -> None:
    """Stops unless both forms give the same value and gradients, else their times would not compare. Warms both up."""
    a, b = case.inputs()
    official, ours = ((form(a, b), form) for form in case.forms())
    torch.testing.assert_close(ours[0], official[0], rtol=1e-4, atol=0)
    expected = torch.autograd.grad(official[0], (a, b))
    for got, want in zip(torch.autograd.grad(ours[0], (a, b)), expected):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())


def seconds(case: Case, repeats: int) -> dict[str, Any]:
    """Returns median seconds of both forms, and the ratio official / ours as (median, lowest, highest)."""
    a, b = case.inputs()
    forms, taken = case.forms(), ([], [])
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 else (1, 0):
            start = time.perf_counter()
            step(forms[which], a, b)
            taken[which].append(time.perf_counter() - start)
    ratios = [official / ours for official, ours in zip(*taken)]
    return {
        "official_s": statistics.median(taken[0]),
        "ours_s": statistics.median(taken[1]),
        "speedup": [statistics.median(ratios), min(ratios), max(ratios)],
    }


def resident(field: str) -> int:
    """Returns VmRSS (now) or VmHWM (highest) of this process in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def peak_bytes(case: Case) -> dict[str, float]:
    """Returns the higher of two peaks of one forward and backward above the state before it, in bytes."""
    result = {}
    for name, form in zip(("official_bytes", "ours_bytes"), case.forms()):
        a, b = case.inputs()
        peaks = []
        step(form, a, b)
        for _ in range(2):
            a.grad = b.grad = None
            Path("/proc/self/clear_refs").write_text("5")
            before = resident("VmRSS")
            step(form, a, b)
            peaks.append(resident("VmHWM") - before)
        result[name] = max(peaks)
    return result


def measure_memory(arguments: list[str]) -> list[dict[str, float]] | None:
    """Returns `peak_bytes` of every case from a process whose freed blocks leave it; None without Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, *arguments, "--memory-only"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


# ---- reporting


def environment(threads: int, repeats: int) -> dict[str, Any]:
    """Returns what the numbers depend on."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()

    cpu = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return {
        "commit": (git("rev-parse", "--short", "HEAD") or "none")
        + ("+changes" if git("status", "--porcelain") else ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"CPU: {name[1] if name else platform.machine()}",
        "threads": threads,
        "repeats": repeats,
    }


def row(result: dict[str, Any]) -> str:
    """Returns one line of the table."""
    middle, low, high = result["speedup"]
    line = f"{result['loss']:<18}{result['rows']:>6}{result['features']:>7}"
    line += f"{1e3 * result['official_s']:>12.1f}{1e3 * result['ours_s']:>9.1f}"
    line += f"{middle:>9.2f}{f'({low:.2f}-{high:.2f})':>13}"
    if "ours_bytes" not in result:
        return line + f"{'-':>12}{'-':>9}{'-':>8}"
    official, ours = result["official_bytes"], result["ours_bytes"]
    return line + f"{official / 2**20:>12.1f}{ours / 2**20:>9.1f}{official / max(ours, 1):>8.2f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[256, 1024], help="N of Barlow Twins, VICReg, sample correlation")
    add("--features", type=int, default=2048, help="their D (default %(default)s)")
    add("--contrastive-rows", type=int, nargs="+", default=[1024], help="N of NT-Xent and N-pairs")
    add("--contrastive-features", type=int, default=128, help="their D (default %(default)s)")
    add("--repeats", type=int, default=5, help="timed runs of each form (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--json", type=Path, help="also write everything to this file")
    add("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    todo = cases(options)
    if options.memory_only:
        print(json.dumps([peak_bytes(case) for case in todo]))
        return

    about = environment(options.threads, options.repeats)
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    memory = measure_memory(arguments) or [{} for _ in todo]
    print("ratios are official / ours: above 1 is faster, or leaner, than the plain transcription; ms and MiB")
    print(f"{'loss':<18}{'N':>6}{'D':>7}{'official ms':>12}{'ours':>9}{'ratio':>9}{'low-high':>13}", end="")
    print(f"{'official MiB':>13}{'ours':>8}{'ratio':>8}")
    results = []
    for case, peaks in zip(todo, memory):
        check_equal(case)
        size = {"loss": type(case.loss).__name__, "rows": case.rows, "features": case.features}
        results.append({**size, **seconds(case, options.repeats), **peaks})
        print(row(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
