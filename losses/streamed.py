"""Losses over all N x N pairs of a batch, some rows at a time: never the whole matrix, nor its gradient, in memory.

The forward pass keeps vectors, the backward pass makes each block of logits once more. Where one block is the whole
batch, its logits are kept instead.
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

Plain = Callable[..., tuple[Tensor, ...]]


def rows_at_once(num_rows: int, device: torch.device) -> int:
    """Returns how many rows of the (N, N) logits make a block.

    On a CPU blocks of 4 MiB in float32 stay in the cache, and 128 rows keep the matrix products fast. On a GPU 16 MiB
    make a kernel long beside its launch; that figure is derived, not measured.
    """
    return min(num_rows, max(128, (2**20 if device.type == "cpu" else 2**22) // num_rows))


class Units(NamedTuple):
    """Rows over their lengths (n, D), and these lengths (n, 1)."""

    rows: Tensor
    length: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Units:
        """Returns those of `z` (n, D), as F.normalize makes them: no length is under 1e-12."""
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min_(1e-12)
        return cls(z / length, length)

    def back(self, gradient: Tensor) -> Tensor:
        """Turns the gradient (n, D) of these rows into that of `z`, in place; returns its sum along the rows, ()."""
        along = (gradient * self.rows).sum(1, keepdim=True)
        gradient.addcmul_(self.rows, along, value=-1).div_(self.length)
        return along.sum()


class Block(NamedTuple):
    """Some rows of the logits (n, N), the normalised rows of `a` they come from, and two buffers (n, N)."""

    rows: slice
    a: Units
    logits: Tensor
    buffer: Tensor
    other: Tensor


def blocks(a: Tensor, b: Units, scale: Tensor, kept: Tensor | None = None) -> Iterator[Block]:
    """Yields scale * cosine of rows of `a` (N, D) with all rows of `b` (N, D), always in the same memory.

    Args:
        kept: the logits (N, N) of an earlier pass, if they were one block. The logits are never written to for this.
    """
    num_rows = len(a)
    step = rows_at_once(num_rows, a.device)
    buffers = [a.new_empty(step, num_rows) for _ in range(2 if kept is not None else 3)]
    for start in range(0, num_rows, step):
        rows = slice(start, min(start + step, num_rows))
        units = Units.of(a[rows])
        buffer, other, *rest = (whole[: rows.stop - start] for whole in buffers)
        logits = torch.mm(units.rows * scale, b.rows.T, out=rest[0]) if kept is None else kept
        yield Block(rows, units, logits, buffer, other)


class Gradients:
    """Gradients of `a`, `b` (N, D) and the scale, from the gradient of the logits, block by block."""

    def __init__(self, a: Tensor, b: Units, wants_a: bool, wants_b: bool) -> None:
        """Makes room for what is wanted; `b` also stands in for `a` where only the scale is."""
        self.b = b
        self.of_a = torch.empty_like(a) if wants_a else None
        self.of_b = torch.zeros_like(b.rows) if wants_b or not wants_a else None
        self.of_scale = a.new_zeros(())

    def add(self, block: Block, gradient: Tensor, scale: Tensor) -> None:
        """Takes the gradient (n, N) of a block's logits."""
        if self.of_a is not None:
            of_units = gradient @ self.b.rows
            self.of_scale += block.a.back(of_units)
            torch.mul(of_units, scale, out=self.of_a[block.rows])
        if self.of_b is not None:
            self.of_b.addmm_(gradient.T, block.a.rows)

    def finish(self, scale: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Returns the gradients of `a`, `b` and the scale."""
        if self.of_b is not None:
            along = self.b.back(self.of_b)
            self.of_scale = self.of_scale if self.of_a is not None else along
            self.of_b *= scale
        return self.of_a, self.of_b, self.of_scale


def _differentiable_again(
    plain: Plain, gradients: tuple[Tensor, ...], *inputs: Tensor | bool
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


class _CrossEntropies(torch.autograd.Function):
    """With highest logits m and sums s = sum exp(l - m), for each row and each column: log-sum-exp = m + log s.

    The two are kept apart: where a row's partner is its highest logit, l - m is 0 and 1 - softmax keeps its digits.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor, number: Tensor, both: bool) -> tuple[Tensor, ...]:
        num_rows = len(a)
        count, positive, row_max, row_sum = a.new_empty(4, num_rows)
        column_max, column_sum = a.new_full((num_rows,), -torch.inf), a.new_zeros(num_rows)
        kept = None
        for block in blocks(a, Units.of(b), scale * LOG2_E):
            rows, _, logits, buffer, _ = block
            same = torch.eq(number[rows, None], number, out=buffer)
            count[rows] = same.sum(1)
            positive[rows] = same.mul_(logits).sum(1) / count[rows]
            row_max[rows] = logits.amax(1)
            row_sum[rows] = torch.sub(logits, row_max[rows, None], out=buffer).exp2_().sum(1)
            if both:
                highest = torch.maximum(column_max, logits.amax(0))
                column_sum *= (column_max - highest).exp2_()
                column_sum += torch.sub(logits, highest, out=buffer).exp2_().sum(0)
                column_max = highest
            kept = logits if len(logits) == num_rows else None
        ctx.both = both
        ctx.save_for_backward(a, b, scale, number, count, row_max, row_sum, column_max, column_sum, kept)
        # Groups have the same size seen from rows and from columns, so the mean over positives is one for both.
        found = ((row_max, row_sum), (column_max, column_sum))[: 1 + both]
        return tuple((highest - positive + total.log2()).mean() / LOG2_E for highest, total in found)

    @staticmethod
    @at_least_float32  # for a backward pass inside an autocast region
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, number, count, row_max, row_sum, column_max, column_sum, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_again(plain_cross_entropies, gradients, a, b, scale, number, ctx.both)
        units_b = Units.of(b)
        found = Gradients(a, units_b, *ctx.needs_input_grad[:2])
        shares = [gradient / len(a) for gradient in gradients]
        of_row, of_target = shares[0] / row_sum, sum(shares[1:], shares[0]) / count
        for block in blocks(a, units_b, scale * LOG2_E, kept):
            rows, _, logits, buffer, other = block
            gradient = torch.sub(logits, row_max[rows, None], out=buffer).exp2_().mul_(of_row[rows, None])
            if ctx.both:
                gradient.addcmul_(torch.sub(logits, column_max, out=other).exp2_(), shares[1] / column_sum)
            same = torch.eq(number[rows, None], number, out=other)
            found.add(block, gradient.addcmul_(same, of_target[rows, None], value=-1), scale)
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
        num_rows = len(a)
        positive, negative = a.new_empty(2, num_rows)
        kept = None
        for block in blocks(a, Units.of(b), scale):
            signed, same = _signed(block, bias, number)
            cost = F.softplus(signed, threshold=LINEAR_FROM)
            positive[block.rows] = same.mul_(cost).sum(1)
            # Exactly 0 where positive: negatives near 0 keep their digits beside positives near 10.
            negative[block.rows] = cost.sub_(same).sum(1)
            kept = block.logits if len(block.logits) == num_rows else None
        ctx.save_for_backward(a, b, scale, bias, number, kept)
        return positive.mean(), negative.mean()

    @staticmethod
    @at_least_float32
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias, number, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_again(plain_pair_losses, gradients, a, b, scale, bias, number)
        units_b = Units.of(b)
        found = Gradients(a, units_b, *ctx.needs_input_grad[:2])
        of_positive, of_negative = (gradient / len(a) for gradient in gradients)
        of_bias = a.new_zeros(())
        for block in blocks(a, units_b, scale, kept):
            signed, same = _signed(block, bias, number)
            weight = same.mul_(-(of_positive + of_negative)).add_(of_negative)
            gradient = signed.sigmoid_().mul_(weight)
            of_bias += gradient.sum()
            found.add(block, gradient, scale)
        of_a, of_b, of_scale = found.finish(scale)
        return of_a, of_b, of_scale, of_bias, None


def _signed(block: Block, bias: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Returns -l for positive pairs and l for others, and 1 for positive pairs and 0 for others: in the two buffers."""
    same = torch.eq(number[block.rows, None], number, out=block.other)
    signed = torch.add(block.logits, bias, out=block.buffer)
    return signed.addcmul_(signed, same, value=-2), same
