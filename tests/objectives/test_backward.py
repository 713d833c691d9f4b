"""--chunks: the gradient of the whole batch from parts of it, on one rank and on several."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losses import NPairs, NTXent
from models import Mlp
from objectives import Batch, JointEmbedding, Step, Text
from objectives.backward import Chunks, WholeBatch, batch_norm_rows, split
from parallel import World, synchronise_batch_norm
from tests.ranks import run_ranks

ROWS, SIDE = 16, 6
OFF = torch.amp.GradScaler("cpu", enabled=False)


class PerRow:
    """A network that does not look across rows; with dropout."""

    def build(self) -> tuple[nn.Module, int]:
        layers = [nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 12), nn.GELU(), nn.LayerNorm(12), nn.Dropout(0.3)]
        return nn.Sequential(*layers), 12


class Convolutions:
    """A network with BatchNorm."""

    def build(self) -> tuple[nn.Module, int]:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()), 8 * (SIDE - 2) ** 2


def objective(network: Any = PerRow, loss: Any = None) -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding(network(), Mlp((16,), norm=False), loss or NTXent(0.2)).double()


def batch(rank: int = 0, ranks: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, ROWS, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    share = slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks)
    return Batch(tuple(views[:, share]), torch.arange(ROWS)[share], torch.zeros(ROWS // ranks, dtype=torch.long))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-12) -> bool:
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one)


@pytest.mark.parametrize("chunks", [2, 4, 16])
def test_chunks_give_the_gradient_of_the_whole_batch(chunks: int) -> None:
    model = objective().eval()  # without dropout, whose draws are a chunk's own
    whole_terms, whole_z = WholeBatch(Step(model))(batch(), 0.5, OFF)
    whole = gradients(model)
    terms, z = Chunks(model, "fp64", chunks)(batch(), 0.5, OFF)
    assert same(gradients(model), whole)
    assert same(terms, whole_terms)
    assert same(z, whole_z)
    assert not any(value.requires_grad for value in [*terms.values(), *z.values()])


def test_accumulating_the_chunks_losses_would_be_another_gradient() -> None:
    """The tests above can fail: this is what the usual accumulation gives."""
    model = objective().eval()
    WholeBatch(Step(model))(batch(), 0.5, OFF)
    whole = gradients(model)
    for part in split(batch(), 4):
        WholeBatch(Step(model))(part, 0.5, OFF)
    accumulated = {name: grad / 4 for name, grad in gradients(model).items()}
    assert not same(accumulated, whole, tolerance=0.05)


def test_both_forwards_of_a_chunk_drop_out_the_same() -> None:
    """Finite differences: with other draws in the second forward the gradient would not be that of the loss."""
    model = objective()
    take = Chunks(model, "fp64", 4)

    def loss() -> float:
        torch.manual_seed(7)
        terms, _ = take(batch(), 0.5, OFF)
        return float(sum(terms.values()))

    loss()
    weight = model.encoder[1].weight
    found = gradients(model)["encoder.1.weight"][3, 5]
    step = 1e-6
    weight.data[3, 5] += step
    high = loss()
    weight.data[3, 5] -= 2 * step
    low = loss()
    assert float(found) == pytest.approx((high - low) / (2 * step), rel=1e-6)


def test_batch_norm_counts_each_row_once_and_sees_a_chunk() -> None:
    model = objective(Convolutions)
    norm = model.encoder[1]
    Chunks(model, "fp64", 4)(batch(), 0.0, OFF)
    assert int(norm.num_batches_tracked) == 2 * 4  # two views, four chunks, although each is forwarded twice
    expected = objective(Convolutions).encoder
    for part in split(batch(), 4):
        for view in part.views:
            expected[:2](view)
    assert torch.allclose(norm.running_mean, expected[1].running_mean)
    assert batch_norm_rows(model, 64, 4) == 16
    assert batch_norm_rows(model, 64, 1) is None
    assert batch_norm_rows(objective(), 64, 4) is None


def test_rows_with_captions_are_cut_together() -> None:
    whole = batch()._replace(text=Text(torch.arange(2 * ROWS).view(ROWS, 2), torch.arange(ROWS)))
    parts = split(whole, 4)
    for i, part in enumerate(parts):
        assert part.index.tolist() == [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]
        assert part.text is not None
        assert part.text.group.tolist() == part.index.tolist()
        assert torch.equal(part.text.tokens[:, 0], 2 * part.index)
        assert torch.equal(part.views[1], whole.views[1][part.index])


def on_rank(world: World) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, network in (("per row", PerRow), ("batch norm", Convolutions)):
        model = objective(network, NPairs(0.2))
        if network is PerRow:
            model.eval()
        synchronise_batch_norm(model, world.device)
        Chunks(model, "fp64", 2)(batch(world.rank, world.size), 0.5, OFF)
        found[name] = gradients(model)
    return found


@cache
def on_ranks(size: int) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(on_rank, size)


@pytest.mark.parametrize("size", [2, 4])
def test_chunks_on_ranks_give_the_gradient_of_one_process(size: int) -> None:
    model = objective(loss=NPairs(0.2)).eval()
    WholeBatch(Step(model))(batch(), 0.5, OFF)
    whole = gradients(model)
    for rank in on_ranks(size):
        assert same(rank["per row"], whole)
    assert same(on_ranks(size)[0]["batch norm"], on_ranks(size)[1]["batch norm"])
