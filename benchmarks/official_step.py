"""The official Barlow Twins training step on random images: fp16 autocast with its gradient scaler, eager, NCHW, LARS.

    python -m benchmarks.official_step [--official CHECKOUT] [--batch-size 256] [--steps 20] [--json FILE]

Networks, loss and optimiser are the classes of a checkout of facebookresearch/barlowtwins; without, a transcription.
The loop is that of its main.py, but for DistributedDataParallel, which on one GPU only costs, and the loader: the two
views lie on the device. On a GPU a step's time is the device's, by CUDA events; on a CPU, where fp16 is emulated, it
runs in bf16.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import lars, loop
from benchmarks.official import SOURCE, commit_of, official_main


class Transcription(nn.Module):
    """torchvision's ResNet, a projector of three Linears without bias, and the loss: two views -> scalar."""

    def __init__(self, backbone: str, width: int) -> None:
        super().__init__()
        import torchvision

        self.backbone = getattr(torchvision.models, backbone)(zero_init_residual=True)
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        layers: list[nn.Module] = []
        for before in (features, width):
            layers += [nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        self.projector = nn.Sequential(*layers, nn.Linear(width, width, bias=False))
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = (self.norm(self.projector(self.backbone(view))) for view in (first, second))
        c = a.T @ b / len(first)
        n = len(c)
        off_diagonal = c.flatten()[:-1].view(n - 1, n + 1)[:, 1:].flatten()
        return c.diagonal().add(-1).pow(2).sum() + 5.1e-3 * off_diagonal.pow(2).sum()


def build(checkout: Path | None, backbone: str, width: int, rows: int) -> tuple[str, nn.Module]:
    """Returns (whose networks and loss, the module)."""
    if checkout is None:
        return f"our transcription of {SOURCE} main.py @8e8d284", Transcription(backbone, width)
    import torch.distributed as dist

    # Its loss adds up over ranks in any case.
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    asked = SimpleNamespace(projector=f"{width}-{width}-{width}", batch_size=rows, lambd=5.1e-3)
    return f"{SOURCE} @{commit_of(checkout)[:7]}", official_main(checkout).BarlowTwins(asked)


def measure(arguments: list[str]) -> dict[str, Any]:
    """Returns the seconds of each step, with its circumstances."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--official", type=Path, help="a checkout of facebookresearch/barlowtwins")
    add("--backbone", default="resnet50", help="torchvision's; a checkout has resnet50 only (default %(default)s)")
    add("--batch-size", type=int, default=256, help="default %(default)s")
    add("--size", type=int, default=224, help="pixels of a side (default %(default)s)")
    add("--width", type=int, default=8192, help="of the projector (default %(default)s)")
    add("--steps", type=int, default=20, help="measured steps (default %(default)s)")
    add("--warmup", type=int, default=5, help="steps before them (default %(default)s)")
    add("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU if there is one")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    cuda = options.device == "auto" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    whose, module = build(options.official, options.backbone, options.width, options.batch_size)
    module = module.to(device)
    _, optimizer = lars.official(options.official, module)
    scaler = torch.amp.GradScaler(device.type)
    shape = (options.batch_size, 3, options.size, options.size)
    first, second = (torch.randn(shape, device=device) for _ in range(2))

    stamps: list[Any] = []
    for _ in range(options.warmup + options.steps):
        stamps.append(stamp(cuda))
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.float16 if cuda else torch.bfloat16):
            loss = module(first, second)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    stamps.append(stamp(cuda))
    if cuda:
        torch.cuda.synchronize()
    pairs = list(itertools.pairwise(stamps))[options.warmup :]
    seconds = [start.elapsed_time(end) / 1e3 if cuda else end - start for start, end in pairs]
    result = {**loop.about(options.steps, cuda), "official": whose, "rows": options.batch_size, "seconds": seconds}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


def stamp(cuda: bool) -> Any:
    """Returns the present moment: of the device's work, or of the clock."""
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def main(arguments: list[str]) -> None:
    result = measure(arguments)
    low, high = 1e3 * min(result["seconds"]), 1e3 * max(result["seconds"])
    print("  ".join(f"{name} {result[name]}" for name in ("commit", "torch", "device", "threads", "official")))
    middle = 1e3 * statistics.median(result["seconds"])
    print(f"{result['rows']} rows: {middle:.1f} ms a step ({low:.1f} to {high:.1f}), n = {len(result['seconds'])}")


if __name__ == "__main__":
    main(sys.argv[1:])
