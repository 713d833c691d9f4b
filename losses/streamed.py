"""Losses over all N x N pairs of a batch, a tile at a time: softmax over rows and columns, and sigmoid of each pair.

The forward pass keeps no logits, the backward pass makes each tile of them once more; those of a small batch are kept.
Only gradients of gradients (`create_graph`) take the plain form, matrix and all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import at_least_float32
from .tiling import Gradients, Tile, Units, room, tiles
from .twice import differentiable_again

# exp2 takes half the time of exp and is as exact, so logits that are exponents are in units of ln 2.
LOG2_E = math.log2(math.e)

# A logit that is as good as none; not -inf, whose difference to itself is not 0.
NEVER = -1e30

# torch takes softplus(x) as x from 20 on, which is 2e-9 off; from 40 on it is exact in float64.
LINEAR_FROM = 40.0


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
        row, column = (LogSumExp(total - torch.inf, total) for total in totals)
        unit_a, unit_b, kept = Units.of(a), Units.of(b), room(a)
        for tile in tiles(unit_a, unit_b, scale * LOG2_E, kept):
            same = tile.same(number, out=tile.buffer)
            count[tile.rows] += same.sum(1)
            positive[tile.rows] += same.mul_(tile.logits).sum(1)
            row.add(tile.rows, tile.logits, 1, tile.buffer)
            if both:
                column.add(tile.columns, tile.logits, 0, tile.buffer)
        ctx.both = both
        ctx.save_for_backward(a, b, scale, number, kept, count, *row, *column, *unit_a, *unit_b)
        # A group has as many rows as columns, so the mean over positives is the same seen from both.
        found = (row, column) if both else (row,)
        return tuple((sums.highest - positive / count + sums.total.log2()).mean() / LOG2_E for sums in found)

    @staticmethod
    @at_least_float32  # for a backward pass inside an autocast region
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, number, kept, count, *pairs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_again(plain_cross_entropies, gradients, a, b, scale, number, ctx.both)
        row, column = LogSumExp(*pairs[:2]), LogSumExp(*pairs[2:4])
        unit_a, unit_b = Units(*pairs[4:6]), Units(*pairs[6:])
        shares = [gradient / len(a) for gradient in gradients]
        of_row, of_column = shares[0] / row.total, shares[-1] / column.total
        of_target = sum(shares[1:], shares[0]) / count
        found = Gradients(unit_a, unit_b, *ctx.needs_input_grad[:2])
        for tile in tiles(unit_a, unit_b, scale * LOG2_E, kept, filled=True):
            rows, columns, logits, buffer, other = tile
            gradient = torch.sub(logits, row.highest[rows, None], out=buffer).exp2_().mul_(of_row[rows, None])
            if ctx.both:
                powers = torch.sub(logits, column.highest[columns], out=other).exp2_()
                gradient.addcmul_(powers, of_column[columns])
            gradient.addcmul_(tile.same(number, out=other), of_target[rows, None], value=-1)
            found.add(tile, gradient)
        return *found.finish(scale), None, None


# ---- softmax: each of both views among all others of both


def plain_cross_entropies_of_both(a: Tensor, b: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what `cross_entropies_of_both` does, from the whole matrix."""
    z = F.normalize(torch.cat([a, b]))
    logits = (scale * (z @ z.T)).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    found = F.cross_entropy(logits, partner, reduction="none").chunk(2)
    return found[0].mean() / 2, found[1].mean() / 2


def cross_entropies_of_both(a: Tensor, b: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns half the mean cross-entropy of scale * cosine to all other rows of both views, of the rows of each.

    Args:
        a, b: (N, D); the right answer for a row is the same row of the other view.
        scale: ().
    """
    return _CrossEntropiesOfBoth.apply(a, b, scale)


class _CrossEntropiesOfBoth(torch.autograd.Function):
    """The logits (2N, 2N) are symmetric: a tile stands for itself and for its transposed."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        z = Units.of(torch.cat([a, b]))
        positive, *totals = a.new_zeros(3, 2 * len(a))
        found, kept = LogSumExp(*totals), room(z.rows)
        found.highest.fill_(NEVER)
        for tile in tiles(z, z, scale * LOG2_E, kept, symmetric=True):
            if tile.rows == tile.columns:
                tile.logits.fill_diagonal_(NEVER)  # itself is no candidate
            for rows, logits in tile.partners(len(a), tile.logits):
                positive[rows] = logits
            found.add(tile.rows, tile.logits, 1, tile.buffer)
            if tile.rows != tile.columns:
                found.add(tile.columns, tile.logits, 0, tile.buffer)
        positive[len(a) :] = positive[: len(a)]
        ctx.save_for_backward(a, b, scale, kept, *found, *z)
        first, second = ((found.highest - positive + found.total.log2()) / LOG2_E).chunk(2)
        return first.mean() / 2, second.mean() / 2

    @staticmethod
    @at_least_float32
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, kept, highest, total, *pair = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_again(plain_cross_entropies_of_both, gradients, a, b, scale)
        z = Units(*pair)
        share = torch.stack(gradients).repeat_interleave(len(a)) / (2 * len(a))
        of_row, of_target = share / total, share + share.roll(len(a))
        of_z = torch.zeros_like(z.rows)
        for tile in tiles(z, z, scale * LOG2_E, kept, filled=True, symmetric=True):
            rows, columns, logits, buffer, other = tile
            if rows == columns and kept is None:
                logits.fill_diagonal_(NEVER)
            gradient = torch.sub(logits, highest[rows, None], out=buffer).exp2_().mul_(of_row[rows, None])
            powers = torch.sub(logits, highest[columns], out=other).exp2_()
            gradient.addcmul_(powers, of_row[columns])
            for where, values in tile.partners(len(a), gradient):
                values -= of_target[where]
            of_z[rows].addmm_(gradient, z.rows[columns])
            if rows != columns:
                of_z[columns].addmm_(gradient.T, z.rows[rows])
        of_scale = z.back(of_z, scale) / 2  # each pair is seen from both of its rows
        return *of_z.chunk(2), of_scale


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
        unit_a, unit_b, kept = Units.of(a), Units.of(b), room(a)
        for tile in tiles(unit_a, unit_b, scale, kept):
            signed, same = _signed(tile, bias, number)
            cost = F.softplus(signed, threshold=LINEAR_FROM)
            positive[tile.rows] += same.mul_(cost).sum(1)
            # Exactly 0 where positive: negatives near 0 keep their digits beside positives near 10.
            negative[tile.rows] += cost.sub_(same).sum(1)
        ctx.save_for_backward(a, b, scale, bias, number, kept, *unit_a, *unit_b)
        return positive.mean(), negative.mean()

    @staticmethod
    @at_least_float32
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias, number, kept, *pairs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_again(plain_pair_losses, gradients, a, b, scale, bias, number)
        of_positive, of_negative = (gradient / len(a) for gradient in gradients)
        unit_a, unit_b = Units(*pairs[:2]), Units(*pairs[2:])
        found = Gradients(unit_a, unit_b, *ctx.needs_input_grad[:2])
        of_bias = a.new_zeros(())
        for tile in tiles(unit_a, unit_b, scale, kept, filled=True):
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
