"""Our BatchNorm over ranks equals torch's on the whole batch, in value, gradient and running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from parallel import World, gather, synchronise_batch_norm
from tests.ranks import run_ranks

ROWS = 8


def rows(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    scale = torch.linspace(0.2, 4, ROWS, dtype=torch.float64).view(-1, *[1] * len(shape))
    return torch.randn(ROWS, *shape, generator=generator, dtype=torch.float64) * scale + scale


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    affine = nn.BatchNorm1d(5)
    nn.init.normal_(affine.weight)
    nn.init.normal_(affine.bias)
    return {
        "1d": (affine.double(), rows(5)),
        "1d_plain": (nn.BatchNorm1d(5, affine=False).double(), rows(5)),
        "2d": (nn.BatchNorm2d(3, momentum=0.3).double(), rows(3, 4, 4)),
        "cumulative": (nn.BatchNorm2d(3, momentum=None).double(), rows(3, 4, 4)),
        "no_statistics": (nn.BatchNorm2d(3, track_running_stats=False).double(), rows(3, 4, 4)),
        "timm_with_activation": (BatchNormAct2d(3).double(), rows(3, 4, 4)),
        "resnet": (timm.create_model("test_resnet", num_classes=0).double(), rows(3, 32, 32)),
    }


def run(world: World, uneven: bool = False) -> dict[str, dict[str, Any]]:
    """Returns outputs and gradients of two training steps and one in eval mode, this rank's rows."""
    results = {}
    ends = [0, 5, 8, 8] if uneven else [rank * ROWS // world.size for rank in range(world.size + 1)]
    share = slice(ends[world.rank], ends[world.rank + 1])
    for name, (network, x) in networks().items():
        network = nn.Sequential(network).train()
        synchronise_batch_norm(network, torch.device("cpu"))
        x = x[share].requires_grad_()
        network(x)
        y = network(x)
        if uneven:  # rows cannot be gathered: each rank has its part of the mean, times W as the law wants it
            ((y**3).sum() / (ROWS * y[:1].numel() or 1) * world.size).backward()
        else:
            (gather(y) ** 3).mean().backward()
        network.eval()
        results[name] = {
            "y": y.detach(),
            "x_grad": x.grad,
            "grads": [p.grad for p in network.parameters()],
            "buffers": dict(network.named_buffers()),
            "eval": network(x).detach(),
        }
    return results


@pytest.mark.parametrize(("size", "uneven"), [(3, True), (4, False)])
def test_equals_batch_norm_of_the_whole_batch(size: int, uneven: bool) -> None:
    """Also where ranks have 5, 3 and no rows."""
    whole = run(World(0, 1, torch.device("cpu")))
    ranks = run_ranks(run, size, uneven)
    for name, wanted in whole.items():
        parts = [rank[name] for rank in ranks]
        torch.testing.assert_close(torch.cat([p["y"] for p in parts]), wanted["y"], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(torch.cat([p["eval"] for p in parts]), wanted["eval"], rtol=1e-11, atol=1e-11)
        # each rank receives W times its share, which DDP's mean takes away again
        found = torch.cat([p["x_grad"] for p in parts]) / size
        torch.testing.assert_close(found, wanted["x_grad"], rtol=1e-9, atol=1e-11)
        for number, grad in enumerate(wanted["grads"]):
            mean = sum(p["grads"][number] for p in parts) / size
            torch.testing.assert_close(mean, grad, rtol=1e-9, atol=1e-11)
        for key, buffer in wanted["buffers"].items():
            for part in parts:
                torch.testing.assert_close(part["buffers"][key], buffer, rtol=1e-11, atol=1e-11)


def test_one_process_keeps_torchs_own() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3))
    synchronise_batch_norm(network, torch.device("cpu"))
    assert type(network[0]) is nn.BatchNorm1d
