"""Losses on ranks: each forms its own rows and exchanges what the docs say, and the gradient is the whole batch's."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from losses import BarlowTwins, SampleCorrelation, VICReg
from parallel import AllRanks, World
from tests.ranks import run_ranks

N, WIDE, NARROW, RANKS = 24, 40, 12, 4
LOSSES = {
    "barlow_twins": BarlowTwins(0.3),
    "vicreg": VICReg(3.0, 7.0, 2.0, 0.01),
    "sample_correlation": SampleCorrelation(0.2, 2.0),
    "sample_correlation_by_samples": SampleCorrelation(0.2, 2.0, "samples"),
}
CASES = [(name, width) for name in LOSSES for width in (WIDE, NARROW)]


def views(width: int) -> Tensor:
    """Returns two views (2, N, D) whose rows differ in mean and scale, so that no two ranks' statistics agree."""
    random = torch.Generator().manual_seed(3)
    first, noise = torch.randn(2, N, width, dtype=torch.float64, generator=random)
    place = torch.linspace(-1, 2, N, dtype=torch.float64)[:, None]
    return torch.stack([first * (2 + place) + place, first + noise - place])


class Formed(TorchDispatchMode):
    """The shapes of all tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in tree_leaves(found) if isinstance(x, Tensor)}
        return found


def count(sent: list[int]) -> None:
    """Counts the values that this process hands to each collective."""

    def counted(call: Any, place: int) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            sent.append(args[place].numel())
            return call(*args, **kwargs)

        return wrapped

    for name, place in (("all_gather_into_tensor", 1), ("reduce_scatter_tensor", 1), ("all_reduce", 0)):
        setattr(dist, name, counted(getattr(dist, name), place))


def on_rank(world: World) -> dict[Any, dict[str, Any]]:
    sent: list[int] = []
    count(sent)
    results = {}
    for name, width in CASES:
        sent.clear()
        own = views(width)[:, world.rank * N // world.size :][:, : N // world.size]
        a, b = (z.clone().requires_grad_() for z in own)
        with Formed() as formed:
            terms = LOSSES[name](a, b, ranks=AllRanks())
            first = torch.autograd.grad(sum(terms.values()), (a, b))
        result = {"terms": terms, "grads": first, "sent": sum(sent), "shapes": formed.shapes}
        again = torch.autograd.grad(sum(LOSSES[name](a, b, ranks=AllRanks()).values()), (a, b), create_graph=True)
        assert again[0].requires_grad
        results[name, width] = result | {"again": again}
    return {key: {k: detached(v) for k, v in result.items()} for key, result in results.items()}


def detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: x.detach() for name, x in value.items()}
    return tuple(x.detach() for x in value) if isinstance(value, tuple) else value


@cache
def on_ranks() -> list[dict[Any, dict[str, Any]]]:
    return run_ranks(on_rank, RANKS)


@pytest.mark.parametrize(("name", "width"), CASES)
def test_the_mean_gradient_of_own_rows_is_that_of_the_whole_batch(name: str, width: int) -> None:
    a, b = (z.clone().requires_grad_() for z in views(width))
    terms = LOSSES[name](a, b)
    expected = torch.autograd.grad(sum(terms.values()), (a, b))
    found = [rank[name, width] for rank in on_ranks()]
    for rank in found:
        torch.testing.assert_close(rank["terms"], {k: v.detach() for k, v in terms.items()}, rtol=1e-12, atol=1e-13)
    for which in ("grads", "again"):
        for view in (0, 1):
            whole = torch.cat([rank[which][view] for rank in found]) / RANKS
            torch.testing.assert_close(
                whole, expected[view], rtol=1e-11, atol=1e-12 * float(expected[view].abs().max())
            )


@pytest.mark.parametrize(("name", "width"), CASES)
def test_each_rank_forms_its_rows_and_sends_them_once_or_forms_a_sum(name: str, width: int) -> None:
    n = N // RANKS
    by_rows = width == WIDE  # features by their Gram form, samples by their own matrix; else a sum of (D, D)
    matrices = 2 if name != "barlow_twins" else 1
    for rank in on_ranks():
        result = rank[name, width]
        assert result["sent"] <= (2 * n * width if by_rows else matrices * width**2) + 16 * width
        assert ((n, N) in result["shapes"]) == by_rows
        assert ((width, width) in result["shapes"]) == (not by_rows)
        assert ((N, width) in result["shapes"]) == by_rows  # the rows of all
        assert (N, N) not in result["shapes"]
