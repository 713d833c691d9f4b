"""The law: the mean over ranks of what each rank back-propagates is the gradient of the loss of the whole batch.

Every objective runs on 1, 2 and 4 gloo ranks whose rows differ in mean and scale, BatchNorm included, through DDP.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.captions import encode
from losses import BarlowTwins, NPairs, NTXent, SampleCorrelation, SigLIP, VICReg
from models import Bytes, Mlp, Projection, TextTransformer
from objectives import Batch, ImageText, JointEmbedding, Step
from parallel import World, synchronise_batch_norm
from tests.ranks import run_ranks
from training.optimizers import Lars

ROWS, SIDE = 16, 6


class TinyBackbone:
    """Convolution, BatchNorm2d, ReLU, mean pool: small, and it looks across samples."""

    def build(self) -> tuple[nn.Module, int]:
        layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers), 8


def joint(loss: Any, width: int = 32) -> JointEmbedding:
    return JointEmbedding(TinyBackbone(), Mlp((16, width)), loss)


def image_text(loss: Any, **tower: Any) -> ImageText:
    text = TextTransformer(Bytes(24, trim=not tower), 8, 1, 2, **tower)
    return ImageText(TinyBackbone(), text, Projection(6), Projection(6), loss)


# Every objective of the project stands here, with each of its losses. Fewer features than rows (`width=8`) is the other
# form of those that choose between the matrix of features and that of samples.
OBJECTIVES = {
    "barlow_twins": partial(joint, BarlowTwins(0.05)),
    "barlow_twins_narrow": partial(joint, BarlowTwins(0.05), width=8),
    "vicreg": partial(joint, VICReg()),
    "vicreg_narrow": partial(joint, VICReg(), width=8),
    "nt_xent": partial(joint, NTXent(0.2)),
    "n_pairs_clip": partial(joint, NPairs(0.1, symmetric=True)),
    "n_pairs_seed": partial(joint, NPairs(1.0, symmetric=False)),
    "sample_correlation": partial(joint, SampleCorrelation(divisor="features")),
    "sample_correlation_seed": partial(joint, SampleCorrelation(divisor="samples")),
    "sample_correlation_narrow": partial(joint, SampleCorrelation(lambd=0.5, scale=1.0), width=8),
    "clip": partial(image_text, NPairs(0.2)),
    "siglip": partial(image_text, SigLIP(), causal=False, pool="last"),
}

# Some captions are equal within a rank, some on different ranks; their lengths differ.
CAPTIONS = [f"{'a very ' * (i % 3)}small thing {min(i % 7, 4)}"[-20:] for i in range(ROWS)]


def rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns two views whose rows have a mean and a scale of their own, so that no two ranks' statistics agree."""
    generator = torch.Generator().manual_seed(5)
    scale = torch.linspace(0.3, 3, ROWS).view(-1, 1, 1, 1)
    shift = torch.linspace(-2, 1, ROWS).view(-1, 1, 1, 1)
    first = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) * scale + shift
    second = first + 0.5 * torch.randn(ROWS, 3, SIDE, SIDE, generator=generator)
    return first.to(dtype), second.to(dtype)


def train(world: World, name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the first step's loss, terms and gradients, and the state after three LARS steps, on this rank."""
    torch.manual_seed(0)
    objective = OBJECTIVES[name]().to(dtype)
    synchronise_batch_norm(objective, world.device)
    step = world.data_parallel(Step(objective))
    optimizer = Lars(lr=0.5, lr_vectors=0.01, weight_decay=1e-3, eta=0.1).build(objective)
    share = slice(world.rank * ROWS // world.size, (world.rank + 1) * ROWS // world.size)
    views = tuple(view[share] for view in rows(dtype))
    batch = Batch(views, torch.arange(ROWS)[share], torch.zeros(len(views[0]), dtype=torch.long))
    if isinstance(objective, ImageText):
        text = encode(Bytes(24, trim=name == "clip"), CAPTIONS[share])
        batch = batch._replace(views=views[:1], text=text)
    result: dict[str, Any] = {}
    for number in range(3):
        terms, _ = step(batch, number / 3)
        sum(terms.values()).backward()
        if number == 0:
            result["terms"] = {key: value.item() for key, value in terms.items()}
            result["grads"] = {key: p.grad.clone() for key, p in objective.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step({}, (number + 1) / 3)
    result["state"] = {key: value.clone() for key, value in objective.state_dict().items()}
    return result


def train_all(world: World) -> dict[tuple[str, torch.dtype], dict[str, Any]]:
    return {(name, dtype): train(world, name, dtype) for name in OBJECTIVES for dtype in (torch.float64, torch.float32)}


@cache
def on_ranks(size: int) -> list[dict[tuple[str, torch.dtype], dict[str, Any]]]:
    return run_ranks(train_all, size)


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Returns |found - wanted| / |wanted| over all tensors together."""
    assert found.keys() == wanted.keys()
    squares = sum((found[k].double() - wanted[k].double()).square().sum() for k in wanted)
    return float((squares / sum(wanted[k].double().square().sum() for k in wanted)).sqrt())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_train_as_one(name: str, size: int, dtype: torch.dtype) -> None:
    alone = World(0, 1, torch.device("cpu"))
    whole = train(alone, name, dtype)
    tolerance = 1e-12
    if dtype == torch.float32:
        # Some of these gradients carry more than 1e-6 of rounding on one process already: ranks may at most double it.
        exact = train(alone, name, torch.float64)
        tolerance = max(1e-6, 2 * max(difference(whole[key], exact[key]) for key in ("grads", "state")))
        assert tolerance < 1e-5
    for rank in on_ranks(size):
        found = rank[name, dtype]
        assert found["terms"] == pytest.approx(whole["terms"], rel=1e-12 if dtype == torch.float64 else 1e-5, abs=1e-12)
        assert difference(found["grads"], whole["grads"]) < tolerance
        assert difference(found["state"], whole["state"]) < tolerance


def broken(world: World) -> float:
    """Returns the gradient's norm under the official code's rule: a raw all_reduce that autograd does not see."""
    import torch.distributed

    first, second = rows(torch.float64)
    share = slice(world.rank * ROWS // world.size, (world.rank + 1) * ROWS // world.size)
    weight = torch.eye(3 * SIDE * SIDE, 5, dtype=torch.float64, requires_grad=True)
    a, b = ((view.flatten(1) - view.flatten(1).mean(0)) @ weight for view in (first, second))
    matrix = a[share].T @ b[share]
    torch.distributed.all_reduce(matrix.data)
    matrix.square().sum().backward()
    torch.distributed.all_reduce(weight.grad)
    return float((weight.grad / world.size).norm())


def test_a_raw_all_reduce_breaks_the_law() -> None:
    """The test above can fail: the rule it guards against gives half the gradient on two ranks."""
    first, second = rows(torch.float64)
    weight = torch.eye(3 * SIDE * SIDE, 5, dtype=torch.float64, requires_grad=True)
    a, b = ((view.flatten(1) - view.flatten(1).mean(0)) @ weight for view in (first, second))
    (a.T @ b).square().sum().backward()
    for norm in run_ranks(broken, 2):
        assert norm == pytest.approx(float(weight.grad.norm()) / 2, rel=1e-9)
