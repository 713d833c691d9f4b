"""LARS over all tensors at once against the official loop, tensor by tensor: calls, waits, bits, time.

    python -m benchmarks.lars [--official CHECKOUT] [--backbone resnet50] [--steps 5] [--repeats 7] [--threads 1]

The official side is the class LARS of a checkout of facebookresearch/barlowtwins, named by its commit; without one, a
transcription of its rule. Both start from the same weights and get the same gradients, in the groups of their own code.
Calls: what one step sends to torch's dispatcher, momentum in place. Waits: reads back to the host among them. Bits:
after `--steps` steps every parameter and momentum must be equal, or nothing is measured. Time: of a step, median of the
repeats' own ratios with lowest and highest, alternating which goes first. CPU; the calls are the same on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.losses import environment
from benchmarks.official import SOURCE, commit_of, official_main
from models import Backbone
from training.optimizers import Lars

LR, LR_VECTORS, DECAY = 1.6, 0.0384, 1e-6  # main.py's at batch 2048


class Transcription(torch.optim.Optimizer):
    """The official rule, one tensor after the other; `adapt` says whether a group's tensors are scaled and decay."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                update = p.grad
                if group["adapt"]:
                    update = update.add(p, alpha=DECAY)
                    size, change = torch.norm(p), torch.norm(update)
                    one = torch.ones_like(size)
                    trust = torch.where(size > 0, torch.where(change > 0, 0.001 * size / change, one), one)
                    update = update.mul(trust)
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(0.9).add_(update)
                p.add_(state["mu"], alpha=-group["lr"])


def official(checkout: Path | None, module: nn.Module) -> tuple[str, torch.optim.Optimizer]:
    """Returns (whose rule, the optimiser of one tensor after the other over the module's parameters)."""
    weights = [p for p in module.parameters() if p.ndim != 1]
    vectors = [p for p in module.parameters() if p.ndim == 1]
    if checkout is None:
        groups: list[dict[str, Any]] = [{"params": weights, "lr": LR}]
        return "our transcription of the rule", Transcription(
            [*groups, {"params": vectors, "lr": LR_VECTORS, "adapt": False}]
        )
    groups = [{"params": weights}, {"params": vectors}]
    rule = official_main(checkout).LARS
    optimizer = rule(groups, lr=0, weight_decay=DECAY, weight_decay_filter=True, lars_adaptation_filter=True)
    for group, lr in zip(optimizer.param_groups, (LR, LR_VECTORS), strict=True):
        group["lr"] = lr
    return f"{SOURCE}@{commit_of(checkout)[:7]}", optimizer


def give_gradients(modules: list[nn.Module], step: int) -> None:
    """Gives every module the same random gradients."""
    random = torch.Generator().manual_seed(step)
    for parameters in zip(*(module.parameters() for module in modules), strict=True):
        grad = torch.randn(parameters[0].shape, generator=random)
        for p in parameters:
            p.grad = grad.clone()


class Counter(TorchDispatchMode):
    """Counts the calls that reach the dispatcher, and those among them that a host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        self.waits += any(name in str(func) for name in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal"))
        return func(*args, **(kwargs or {}))


def count(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    with Counter() as counter:
        optimizer.step()
    return {"calls": counter.calls, "waits": counter.waits}


def momenta(optimizer: torch.optim.Optimizer, module: nn.Module) -> list[Tensor]:
    return [optimizer.state[p]["mu"] for p in module.parameters()]


def main(arguments: list[str]) -> dict[str, Any]:
    """Prints the table; returns it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--official", type=Path, help="a checkout of facebookresearch/barlowtwins")
    add("--backbone", default="resnet50", help="whose tensors are moved (default %(default)s)")
    add("--steps", type=int, default=5, help="compared to the bit (default %(default)s)")
    add("--repeats", type=int, default=7, help="timed steps of each (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    module, _ = Backbone(options.backbone).build()
    twin = copy.deepcopy(module)
    ours = Lars(lr=LR, lr_vectors=LR_VECTORS, weight_decay=DECAY).build(module)
    whose, loop = official(options.official, twin)
    for step in range(options.steps):
        give_gradients([module, twin], step)
        ours.step()
        loop.step()
    pairs = zip([*module.parameters(), *momenta(ours, module)], [*twin.parameters(), *momenta(loop, twin)], strict=True)
    different = sum(not torch.equal(one, other) for one, other in pairs)
    assert different == 0, f"{different} tensors differ after {options.steps} steps"

    counts = {"ours": count(ours), "official": count(loop)}
    seconds: dict[str, list[float]] = {"ours": [], "official": []}
    for repeat in range(options.repeats):
        for name, optimizer in sorted({"ours": ours, "official": loop}.items(), reverse=bool(repeat % 2)):
            began = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - began)
    ratios = [official / ours for official, ours in zip(seconds["official"], seconds["ours"], strict=True)]
    about = environment(options.threads, options.repeats)
    tensors = len(list(module.parameters()))
    result = {
        **about,
        "official": whose,
        "backbone": options.backbone,
        "tensors": tensors,
        "equal_steps": options.steps,
        "counts": counts,
        "seconds": seconds,
        "speedup": [statistics.median(ratios), min(ratios), max(ratios)],
    }
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    print(f"{options.backbone}: {tensors} tensors; equal to the bit after {options.steps} steps; official: {whose}")
    print("|  | calls | waits | ms a step | time, official / ours |\n|---|---|---|---|---|")
    for name in ("official", "ours"):
        line = f"| {name} | {counts[name]['calls']} | {counts[name]['waits']} "
        line += f"| {1e3 * statistics.median(seconds[name]):.1f} | "
        middle, low, high = result["speedup"]
        print(line + (f"{middle:.2f} ({low:.2f} to {high:.2f}) |" if name == "ours" else "1 |"))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
