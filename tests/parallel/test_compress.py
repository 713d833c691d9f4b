"""Gradients exchanged in bfloat16: half the bytes, the same on all ranks, the exact ones but for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel import World
from parallel.gather import average_gradients
from tests.ranks import run_ranks

FEATURES = 64
SHARE = 2.0**-8  # bfloat16 keeps 8 bits


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, FEATURES)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def gradient(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def exchange(world: World) -> dict[str, dict[str, Any]]:
    """Returns each way's mean gradient on this rank, and the bytes it gave to `all_reduce`."""
    sent: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    found = {}
    for way, compress in (("ddp", False), ("ddp", True), ("own", False), ("own", True)):
        net = model()
        forward = world.data_parallel(net, compress) if way == "ddp" else net
        for _ in range(2):  # DistributedDataParallel rearranges its buckets after the first step
            net.zero_grad()
            sent.clear()
            torch.manual_seed(world.rank)
            forward(torch.randn(4, 3, 6, 6)).square().sum().backward()
        if way == "own":
            average_gradients(net, compress)
        found[f"{way} {'bf16' if compress else 'exact'}"] = {"mean": gradient(net), "bytes": sum(sent)}
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Any]]]:
    return run_ranks(exchange, 2)


@pytest.mark.parametrize("way", ["ddp", "own"])
def test_half_the_bytes_and_the_same_mean_but_for_rounding(way: str, ranks: list[dict[str, dict[str, Any]]]) -> None:
    exact, compressed = ranks[0][f"{way} exact"], ranks[0][f"{way} bf16"]
    assert torch.equal(compressed["mean"], ranks[1][f"{way} bf16"]["mean"])
    error = (compressed["mean"] - exact["mean"]).norm() / exact["mean"].norm()
    assert SHARE / 16 < error < SHARE
    assert compressed["bytes"] == 2 * len(exact["mean"])
    if way == "own":  # DistributedDataParallel's own exchange is not made from Python
        assert exact["bytes"] == 2 * compressed["bytes"]


def test_both_ways_round_the_same(ranks: list[dict[str, dict[str, Any]]]) -> None:
    assert torch.equal(ranks[0]["ddp bf16"]["mean"], ranks[0]["own bf16"]["mean"])
    assert torch.equal(ranks[0]["ddp exact"]["mean"], ranks[0]["own exact"]["mean"])
