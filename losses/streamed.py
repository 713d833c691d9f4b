"""Losses over all N x N pairs of a batch, a tile at a time: never the whole matrix, nor its gradient, in memory.

The forward pass keeps vectors, the backward pass makes each tile of logits once more. Where one tile is the whole
matrix, its logits are kept instead. Only gradients of gradients (`create_graph`) take the plain form, matrix and all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import at_least_float32

# exp2 takes half the time of exp and is as exact, so logits that are exponents are in units of ln 2.
LOG2_E = math.log2(math.e)

# torch takes softplus(x) as x from 20 on, which is 2e-9 off; from 40 on it is exact in float64.
LINEAR_FROM = 40.0


def tile_edge(num_rows: int, device: torch.device) -> int:
    """Returns how many rows and columns of the (N, N) logits make a tile.

    On a CPU 1024: 4 MiB in float32, which caches hold and matrix products are fast at. On a GPU 2048, so that a kernel
    is long beside its launch: derived, not measured.
    """
    across = math.ceil(num_rows / (1024 if device.type == "cpu" else 2048))
    return math.ceil(num_rows / across)


class Units(NamedTuple):
    """Rows over their lengths (N, D), and these lengths (N, 1)."""

    rows: Tensor
    length: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Units:
        """Returns those of `z` (N, D), as F.normalize makes them: no length is under 1e-12."""
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min_(1e-12)
        return cls(z / length, length)

    def back(self, gradient: Tensor) -> Tensor:
        """Turns the gradient (N, D) of these rows into that of `z`, in place; returns its sum along the rows, ()."""
        along = (gradient * self.rows).sum(1, keepdim=True)
        gradient.addcmul_(self.rows, along, value=-1).div_(self.length)
        return along.sum()


class Tile(NamedTuple):
    """Some rows and columns of the logits (n, m), which nobody writes to, and two buffers (n, m)."""

    rows: slice
    columns: slice
    logits: Tensor
    buffer: Tensor
    other: Tensor

    def same(self, number: Tensor, out: Tensor) -> Tensor:
        """Returns `out` (n, m) with 1 for pairs whose numbers are equal and 0 for others."""
        return torch.eq(number[self.rows, None], number[self.columns], out=out)


def tiles(a: Units, b: Units, scale: Tensor, kept: Tensor | None = None) -> Iterator[Tile]:
    """Yields scale * cosine of all rows of `a` with all of `b`, (N, D) each, tile by tile in the same memory.

    Args:
        kept: the logits (N, N) of an earlier pass, if they were one tile.
    """
    num_rows = len(a.rows)
    if kept is not None:
        everything = slice(0, num_rows)
        yield Tile(everything, everything, kept, *(torch.empty_like(kept) for _ in range(2)))
        return
    edge = tile_edge(num_rows, a.rows.device)
    buffers = [a.rows.new_empty(edge * edge) for _ in range(3)]
    parts = [slice(start, min(start + edge, num_rows)) for start in range(0, num_rows, edge)]
    for rows in parts:
        scaled = a.rows[rows] * scale
        for columns in parts:
            size = (rows.stop - rows.start, columns.stop - columns.start)
            logits, buffer, other = (memory[: math.prod(size)].view(size) for memory in buffers)
            torch.mm(scaled, b.rows[columns].T, out=logits)
            yield Tile(rows, columns, logits, buffer, other)


class Gradients:
    """Gradients of what the units `a` and `b` (N, D) come from and of the scale, from that of the logits, by tiles."""

    def __init__(self, a: Units, b: Units, wants_a: bool, wants_b: bool) -> None:
        """Makes room for what is wanted; `b` also stands in for `a` where only the scale is."""
        self.a, self.b = a, b
        self.of_a = torch.zeros_like(a.rows) if wants_a else None
        self.of_b = torch.zeros_like(b.rows) if wants_b or not wants_a else None

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Takes the gradient (n, m) of a tile's logits."""
        if self.of_a is not None:
            self.of_a[tile.rows].addmm_(gradient, self.b.rows[tile.columns])
        if self.of_b is not None:
            self.of_b[tile.columns].addmm_(gradient.T, self.a.rows[tile.rows])

    def finish(self, scale: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients of what `a` and `b` come from, and of the scale, which is the same seen from both."""
        of_scale = None
        for gradient, units in ((self.of_a, self.a), (self.of_b, self.b)):
            if gradient is not None:
                of_scale = units.back(gradient)
                gradient *= scale
        return self.of_a, self.of_b, of_scale


def _differentiable_again(
    plain: Callable[..., tuple[Tensor, ...]], gradients: tuple[Tensor, ...], *inputs: Tensor | bool
) -> tuple[Tensor | None, ...]:
    """Returns the gradient of each input with a graph of its own, by the plain form: for gradients of gradients."""
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    found = iter(torch.autograd.grad(plain(*inputs), tensors, gradients, create_graph=True))
    return tuple(next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs)


# ---- softmax: each row, and each column, among all


def plain_cross_entropies(a: Tensor, b: Tensor, scale: Tensor, number: Tensor, both: bool) -> tuple[Tensor, ...]:
    """Returns what `cross_entropies` does, from the whole matrix."""
    logits = scale * (F.normalize(a) @ F.normalize(b).T)
    target = (number[:, None] == number).to(logits.dtype)
    target = target / target.sum(1, keepdim=True)
    return tuple(-(target * logits.log_softmax(dim)).sum() / len(a) for dim in ((1, 0) if both else (1,)))


def cross_entropies(a: Tensor, b: Tensor, scale: Tensor, number: Tensor, both: bool) -> tuple[Tensor, ...]:
    """Returns the mean cross-entropy over rows, and with `both` over columns, of scale * cosine(a, b): scalars.

    Args:
        a, b: (N, D).
        scale: ().
        number: (N,), see `group_numbers`; the target is uniform over the pairs with equal numbers.
    """
    return _CrossEntropies.apply(a, b, scale, number, both)


class LogSumExp(NamedTuple):
    """highest + log2(total), (N,) each, of the logits along one dimension, over the tiles so far.

    The two are kept apart: where a row's partner is its highest logit, the difference to it is 0, and 1 - softmax keeps
    its digits.
    """

    highest: Tensor
    total: Tensor

    def add(self, where: slice, logits: Tensor, dim: int, buffer: Tensor) -> None:
        """Takes a tile (n, m), whose `dim` is summed over."""
        highest = torch.maximum(self.highest[where], logits.amax(dim))
        powers = torch.sub(logits, highest.unsqueeze(dim), out=buffer).exp2_()
        self.total[where] *= (self.highest[where] - highest).exp2_()
        self.total[where] += powers.sum(dim)
        self.highest[where] = highest


class _CrossEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, number: Tensor, both: bool) -> tuple[Tensor, ...]:
        count, positive, *totals = a.new_zeros(4, len(a))
        over = [LogSumExp(total - torch.inf, total) for total in totals[: 1 + both]]
        for tile in tiles(Units.of(a), Units.of(b), scale * LOG2_E):
            same = tile.same(number, out=tile.buffer)
            count[tile.rows] += same.sum(1)
            positive[tile.rows] += same.mul_(tile.logits).sum(1)
            for dim, where, sums in zip((1, 0), (tile.rows, tile.columns), over):
                sums.add(where, tile.logits, dim, tile.buffer)
        kept = tile.logits if len(tile.logits) == len(a) else None
        ctx.save_for_backward(a, b, scale, number, kept, count, *(x for sums in over for x in sums))
        # A group has as many rows as columns, so the mean over positives is the same seen from both.
        return tuple((sums.highest - positive / count + sums.total.log2()).mean() / LOG2_E for sums in over)

    @staticmethod
    @at_least_float32  # for a backward pass inside an autocast region
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, number, kept, count, row_highest, row_total, *column = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_again(plain_cross_entropies, gradients, a, b, scale, number, bool(column))
        shares = [gradient / len(a) for gradient in gradients]
        of_row, of_target = shares[0] / row_total, sum(shares[1:], shares[0]) / count
        of_column = [share / total for share, total in zip(shares[1:], column[1:])]
        units = Units.of(a), Units.of(b)
        found = Gradients(*units, *ctx.needs_input_grad[:2])
        for tile in tiles(*units, scale * LOG2_E, kept):
            rows, columns, logits, buffer, other = tile
            gradient = torch.sub(logits, row_highest[rows, None], out=buffer).exp2_().mul_(of_row[rows, None])
            if column:
                powers = torch.sub(logits, column[0][columns], out=other).exp2_()
                gradient.addcmul_(powers, of_column[0][columns])
            gradient.addcmul_(tile.same(number, out=other), of_target[rows, None], value=-1)
            found.add(tile, gradient)
        return *found.finish(scale), None, None


# ---- sigmoid: each pair by itself


def plain_pair_losses(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, number: Tensor) -> tuple[Tensor, ...]:
    """Returns what `pair_losses` does, from the whole matrix."""
    logits = scale * (F.normalize(a) @ F.normalize(b).T) + bias
    same = (number[:, None] == number).to(logits.dtype)
    return -(same * F.logsigmoid(logits)).sum() / len(a), -((1 - same) * F.logsigmoid(-logits)).sum() / len(a)


def pair_losses(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, number: Tensor) -> tuple[Tensor, ...]:
    """Returns the sums over positive and over negative pairs of -log sigmoid(+-(scale * cosine + bias)) / N: scalars.

    Args:
        a, b: (N, D).
        scale, bias: ().
        number: (N,), see `group_numbers`; pairs with equal numbers are positive.
    """
    return _PairLosses.apply(a, b, scale, bias, number)


class _PairLosses(torch.autograd.Function):
    """-log sigmoid(l) = softplus(-l), for a positive pair; softplus(l) for a negative one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        positive, negative = a.new_zeros(2, len(a))
        for tile in tiles(Units.of(a), Units.of(b), scale):
            signed, same = _signed(tile, bias, number)
            cost = F.softplus(signed, threshold=LINEAR_FROM)
            positive[tile.rows] += same.mul_(cost).sum(1)
            # Exactly 0 where positive: negatives near 0 keep their digits beside positives near 10.
            negative[tile.rows] += cost.sub_(same).sum(1)
        kept = tile.logits if len(tile.logits) == len(a) else None
        ctx.save_for_backward(a, b, scale, bias, number, kept)
        return positive.mean(), negative.mean()

    @staticmethod
    @at_least_float32
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias, number, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_again(plain_pair_losses, gradients, a, b, scale, bias, number)
        of_positive, of_negative = (gradient / len(a) for gradient in gradients)
        units = Units.of(a), Units.of(b)
        found = Gradients(*units, *ctx.needs_input_grad[:2])
        of_bias = a.new_zeros(())
        for tile in tiles(*units, scale, kept):
            signed, same = _signed(tile, bias, number)
            weight = same.mul_(-(of_positive + of_negative)).add_(of_negative)
            gradient = signed.sigmoid_().mul_(weight)
            of_bias += gradient.sum()
            found.add(tile, gradient)
        return *found.finish(scale), of_bias, None


def _signed(tile: Tile, bias: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Returns -l for positive pairs and l for others, and 1 for positive pairs and 0 for others: in the two buffers."""
    same = tile.same(number, out=tile.other)
    signed = torch.add(tile.logits, bias, out=tile.buffer)
    return signed.addcmul_(signed, same, value=-2), same
