"""Time, peak memory and exactness of N-pairs (CLIP) and SigLIP, forward and backward, against open_clip's own losses.

    python -m benchmarks.contrastive [--rows 256 1024 4096 8192] [--features 512] [--repeats 5] [--threads 1]
                                     [--open-clip CHECKOUT] [--json FILE]

The losses are those of the installed open_clip_torch, or of a checkout; without either, plain transcriptions of their
formulas, and the table says so. Both sides get the same embeddings, normalise them, and have a learned scale (SigLIP:
and bias). Ours also gets groups, all different: what a batch of captions without equal ones is. CPU only.

Time and memory: as in benchmarks/losses.py, in the same run and alternating; few rows are timed more often. n, the
lowest and the highest ratio are in the table. Exactness: relative difference of all gradients together, ours from
open_clip's in float64, and of each in float32 from its own in float64.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.losses import ROOT, Case, environment, peak_bytes, seconds
from losses import NPairs, SigLIP

Loss = Callable[..., Tensor]


# ---- the formulas as open_clip computes them, for where it is not installed


def plain_clip(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    right = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(scale * a @ b.T, right) + F.cross_entropy(scale * b @ a.T, right)) / 2


def plain_siglip(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    sign = 2 * torch.eye(len(a)) - torch.ones(len(a), len(a))
    return -F.logsigmoid(sign * (scale * a @ b.T + bias)).sum() / len(a)


def rivals(checkout: Path | None) -> tuple[str, Loss, Loss]:
    """Returns whose losses these are, CLIP's, and SigLIP's: of the checkout, the installed package, or plain ones."""
    if checkout:
        sys.path.insert(0, str(checkout / "src"))
    try:
        found = importlib.import_module("open_clip.loss")
    except ModuleNotFoundError:
        if checkout:
            raise
        return "plain transcription (open_clip is not installed)", plain_clip, plain_siglip
    name = f"open_clip at {checkout}" if checkout else f"open_clip {importlib.metadata.version('open_clip_torch')}"
    return name, found.ClipLoss(), found.SigLipLoss()


# ---- measuring


class Learned(NamedTuple):
    """One loss at one size against its rival, and the numbers learned beside the embeddings."""

    name: str
    case: Case
    numbers: tuple[Tensor, ...]


def against(loss: NPairs | SigLIP, rival: Loss, rows: int, features: int) -> Learned:
    """Returns the two with a scale (SigLIP: and bias) of their own, at its start; ours with groups, all different."""
    start = (loss.initial_scale, loss.initial_bias) if isinstance(loss, SigLIP) else (loss.initial_scale,)
    numbers = tuple(torch.tensor(x, requires_grad=True) for x in start)
    groups = torch.arange(rows)

    def theirs(a: Tensor, b: Tensor) -> Tensor:
        return rival(F.normalize(a), F.normalize(b), *(x.to(a.dtype) for x in numbers))

    def ours(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return loss(a, b, *numbers, groups=groups)

    return Learned(type(loss).__name__, Case(ours, theirs, rows, features), numbers)


def exactness(learned: Learned) -> dict[str, float]:
    """Returns the largest relative difference of a gradient: ours from the rival's in float64, float32 from float64.

    Stops unless the two are the same loss.
    """
    found = {}
    for dtype in (torch.float64, torch.float32):
        views = tuple(z.detach().to(dtype).requires_grad_() for z in learned.case.inputs())
        for who, form in zip(("rival", "ours"), learned.case.forms()):
            value = form(*views)
            found[who, dtype] = [value.detach(), *torch.autograd.grad(value, (*views, *learned.numbers))]

    def difference(some: list[Tensor], right: list[Tensor]) -> float:
        return max(((x.double() - y.double()).norm() / y.double().norm()).item() for x, y in zip(some, right))

    exact = difference(found["ours", torch.float64], found["rival", torch.float64])
    assert exact < 1e-6, f"{learned.name} and its rival differ by {exact} in float64: they are not the same loss"
    single = {
        f"float32_{who}": difference(found[who, torch.float32], found[who, torch.float64]) for who in ("ours", "rival")
    }
    return {"float64": exact, **single}


def measure_memory(arguments: list[str]) -> list[dict[str, float]] | None:
    """Returns `peak_bytes` of every case from a process whose freed blocks leave it; None without Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.contrastive", *arguments, "--memory-only"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


# ---- reporting

HEADER = """\
| loss | N | D | rival ms | ours ms | ratio (low-high) | n | rival MiB | ours MiB | share | float64 | float32 | rival |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(result: dict[str, Any]) -> str:
    """Returns one line of the table."""
    middle, low, high = result["speedup"]
    memory = ["-"] * 3
    if "ours_bytes" in result:
        official, ours = result["official_bytes"], result["ours_bytes"]
        memory = [f"{official / 2**20:.1f}", f"{ours / 2**20:.1f}", f"{ours / max(official, 1):.3f}"]
    cells = [
        *(result["loss"], result["rows"], result["features"]),
        *(f"{1e3 * result['official_s']:.1f}", f"{1e3 * result['ours_s']:.1f}"),
        *(f"{middle:.2f} ({low:.2f}-{high:.2f})", result["n"], *memory),
        *(f"{result[name]:.0e}" for name in ("float64", "float32_ours", "float32_rival")),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[256, 1024, 4096, 8192], help="N (default %(default)s)")
    add("--features", type=int, default=512, help="D (default %(default)s)")
    add("--repeats", type=int, default=5, help="timed runs of each at N >= 2048, more below (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--open-clip", type=Path, metavar="CHECKOUT", help="a checkout of open_clip instead of the installed package")
    add("--json", type=Path, help="also write everything to this file")
    add("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    whose, clip, siglip = rivals(options.open_clip)
    pairs = ((NPairs(), clip), (SigLIP(), siglip))
    todo = [against(*pair, rows, options.features) for pair in pairs for rows in options.rows]
    if options.memory_only:
        print(json.dumps([peak_bytes(learned.case) for learned in todo]))
        return

    about = {**environment(options.threads, options.repeats), "rival": whose}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    memory = measure_memory(arguments) or [{} for _ in todo]
    print(HEADER)
    results = []
    for learned, peaks in zip(todo, memory):
        exact = exactness(learned)  # warms both up, too
        case = learned.case
        count = options.repeats * max(1, 2048 // case.rows)
        size = {"loss": learned.name, "rows": case.rows, "features": case.features, "n": count}
        results.append({**size, **seconds(case, count), **peaks, **exact})
        print(row(results[-1]), flush=True)
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"\nLoad of the machine over the last 1, 5 and 15 minutes: {load} on {os.cpu_count()} cores.")
    if options.json:
        options.json.write_text(json.dumps({**about, "load": load, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
