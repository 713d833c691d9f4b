"""Time, peak memory and exactness of each loss, forward and backward, against its rivals' code.

    python -m benchmarks.losses [--official CHECKOUT] [--vicreg CHECKOUT] [--lightly CHECKOUT] [--solo-learn CHECKOUT]
        [--sizes 256x8192 1024x8192] [--contrastive-sizes 4096x128] [--repeats 5] [--threads 1] [--json FILE]
    python -m benchmarks.losses --sweep ...      # is there a size at which ours is slower?

A rival is a checkout's own code, named by its commit, else a plain transcription of the formula. Both run in one
process on the same inputs and must agree in value and gradient before anything is measured. CPU only.

Time: median over the repeats, alternating which goes first; the ratio is the median of each repeat's own ratio, with
its lowest and highest. Only ratios carry over to another machine.

Error: of the gradient in float32, its norm over that of the gradient in float64.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import loss_rivals
from benchmarks.loss_rivals import Formula, Rival

ROOT = Path(__file__).resolve().parents[1]
CHECKOUTS = {
    "official": loss_rivals.barlowtwins_checkout,
    "vicreg": loss_rivals.vicreg_checkout,
    "lightly": loss_rivals.lightly_checkout,
    "solo_learn": loss_rivals.solo_learn_checkout,
}
CONTRASTIVE = ("NTXent", "NPairs")
Size = tuple[int, int]


# ---- measuring


class Case(NamedTuple):
    """One loss at one size, with the formula it is measured against."""

    loss: Callable[[Tensor, Tensor], dict[str, Tensor]]
    official: Formula
    rows: int
    features: int
    whose: str = "transcription"

    def forms(self) -> tuple[Formula, Formula]:
        """Returns (official, ours), each (N, D), (N, D) -> scalar."""
        return self.official, lambda a, b: torch.stack(list(self.loss(a, b).values())).sum()

    def name(self) -> dict[str, Any]:
        """Returns what says which case it is."""
        loss = type(self.loss).__name__
        return {"loss": loss, "against": self.whose, "rows": self.rows, "features": self.features}

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Returns two related views (N, D) that want gradients."""
        random = torch.Generator().manual_seed(0)
        a, noise = torch.randn(2, self.rows, self.features, generator=random)
        return a.requires_grad_(), (a.detach() + noise).requires_grad_()


def rivals(options: argparse.Namespace) -> list[Rival]:
    """Returns those of the checkouts that were given, and a transcription of each loss that none of them has."""
    given = [(load, getattr(options, name)) for name, load in CHECKOUTS.items()]
    found = [rival for load, checkout in given if checkout for rival in load(checkout)]
    theirs = {type(rival.loss) for rival in found}
    return found + [rival for rival in loss_rivals.transcriptions() if type(rival.loss) not in theirs]


def cases(options: argparse.Namespace) -> list[Case]:
    """Returns every rival at every size of its kind of loss."""
    return [
        Case(rival.loss, rival.formula(*size), *size, rival.whose)
        for rival in rivals(options)
        for size in (options.contrastive_sizes if type(rival.loss).__name__ in CONTRASTIVE else options.sizes)
    ]


def step(formula: Formula, a: Tensor, b: Tensor) -> None:
    """One forward and backward, gradients thrown away."""
    a.grad = b.grad = None
    formula(a, b).backward()


def check_equal(case: Case) -> dict[str, float]:
    """Returns the errors of both gradients in float32; stops unless both forms are the same loss. Warms both up."""
    a, b = case.inputs()
    official, ours = case.forms()
    values = official(a, b), ours(a, b)
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=0)
    gradients = [torch.autograd.grad(value, (a, b)) for value in values]
    for got, want in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
    exact = [z.detach().double().requires_grad_() for z in (a, b)]
    want = torch.cat(torch.autograd.grad(ours(*exact), exact))
    errors = [((torch.cat(found).double() - want).norm() / want.norm()).item() for found in gradients]
    return dict(zip(("official_error", "ours_error"), errors))


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
    command = [sys.executable, "-m", "benchmarks.losses", *arguments, "--memory-only"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
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


COLUMNS = ("loss", "against", "N", "D", "rival ms", "ours", "times as fast", "low-high", "n")
MORE = ("rival MiB", "ours", "part", "rival's error", "ours")


def row(result: dict[str, Any]) -> str:
    """Returns one line of the table."""
    middle, low, high = result["speedup"]
    cells = [result["loss"], result["against"], str(result["rows"]), str(result["features"])]
    cells += [f"{1e3 * result['official_s']:.1f}", f"{1e3 * result['ours_s']:.1f}", f"{middle:.2f}"]
    cells += [f"{low:.2f}-{high:.2f}", str(result["n"])]
    if "ours_bytes" in result:
        official, ours = result["official_bytes"], result["ours_bytes"]
        cells += [f"{official / 2**20:.0f}", f"{ours / 2**20:.0f}", f"{ours / official:.3f}"]
    else:
        cells += ["-"] * 3
    return table([*cells, f"{result['official_error']:.1e}", f"{result['ours_error']:.1e}"])


def table(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def sweep(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the ratio of times over a grid of N and D, and prints it: a table a rival, N downwards, D across."""
    results = []
    for rival in rivals(options):
        name = type(rival.loss).__name__
        print(f"\n{name}, times as fast as {rival.whose}: N downwards, D across\n")
        print(table(["N", *map(str, options.grid)]), table(["---"] * (1 + len(options.grid))), sep="\n")
        for rows in options.grid:
            found: list[dict[str, Any]] = []
            for features in options.grid:
                case = Case(rival.loss, rival.formula(rows, features), rows, features, rival.whose)
                check_equal(case)
                once = seconds(case, 1)
                repeats = min(101, max(3, int(options.seconds / (once["official_s"] + once["ours_s"]))))
                found.append({**case.name(), "n": repeats, **seconds(case, repeats)})
            print(table([str(rows), *(f"{result['speedup'][0]:.2f}" for result in found)]), flush=True)
            results += found
    worst = min(results, key=lambda result: result["speedup"][0])
    print(f"\nlowest: {worst['speedup'][0]:.2f}, {worst['loss']} at N = {worst['rows']}, D = {worst['features']}")
    return results


def size(text: str) -> Size:
    """Returns (N, D) of "NxD"."""
    rows, features = text.split("x")
    return int(rows), int(features)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    wide = [(256, 8192), (1024, 8192), (2048, 8192), (4096, 2048)]
    add(
        "--sizes", type=size, nargs="+", default=wide, metavar="NxD", help="of Barlow Twins, VICReg, sample correlation"
    )
    add("--contrastive-sizes", type=size, nargs="+", default=[(4096, 128)], metavar="NxD", help="of NT-Xent, N-pairs")
    for name, load in CHECKOUTS.items():
        add(f"--{name.replace('_', '-')}", type=Path, metavar="CHECKOUT", help=(load.__doc__ or "").strip())
    add("--sweep", action="store_true", help="only times, over a grid of N and D")
    add("--grid", type=int, nargs="+", default=[32, 128, 512, 2048], help="its N and its D (default %(default)s)")
    add("--seconds", type=float, default=1.0, help="for each of its cells (default %(default)s)")
    add("--repeats", type=int, default=5, help="timed runs of each form (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--json", type=Path, help="also write everything to this file")
    add("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_only:
        print(json.dumps([peak_bytes(case) for case in cases(options)]))
        return

    about = environment(options.threads, options.repeats)
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    results = sweep(options) if options.sweep else compare(options, arguments)
    if options.json:
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def compare(options: argparse.Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    """Returns times, memory and errors of every case, and prints them."""
    todo = cases(options)
    memory = measure_memory(arguments) or [{} for _ in todo]
    print(table([*COLUMNS, *MORE]), table(["---"] * len([*COLUMNS, *MORE])), sep="\n")
    results = []
    for case, peaks in zip(todo, memory):
        measured = {**check_equal(case), **seconds(case, options.repeats), **peaks}
        results.append({**case.name(), "n": options.repeats, **measured})
        print(row(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
