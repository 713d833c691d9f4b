"""SigLIP: each pair of rows of two views is told partners or not, by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .inputs import at_least_float32, check_pair, group_numbers, scalar
from .sanity import Sanity, check_sizes
from .streamed import pair_losses


@dataclass(frozen=True)
class SigLIP:
    """Returns {"positive", "negative"}: each pair by itself is told partners or not by a sigmoid of its similarity.

    The sum over all N x N pairs of -log sigmoid(z (scale * cosine + bias)), divided by N; z is 1 for partners and -1
    for all others. The matrix is never whole in memory: see `streamed.py`.

    Args:
        initial_scale: multiplies the similarities, where no scale is given; a learned scale starts here.
        initial_bias: the same for the bias. -10: at the start nearly all pairs are told apart, as most are.

    Raises:
        ValueError: for a scale that is not positive.
    Source: arXiv 2303.15343 algorithm 1, and its initial values. Groups are ours: equal captions are partners.

    Equals this slow loop::

        def cosine(x, y):
            product = sum(p * q for p, q in zip(x, y))
            return product / sqrt(sum(p * p for p in x) * sum(q * q for q in y))

        scale, groups = scale or initial_scale, groups or range(N)
        bias = initial_bias if bias is None else bias
        terms = {"positive": 0.0, "negative": 0.0}
        for i in range(N):
            for j in range(N):
                logit = scale * cosine(a[i], b[j]) + bias
                if groups[i] == groups[j]:
                    terms["positive"] += log(1 + exp(-logit)) / N
                else:
                    terms["negative"] += log(1 + exp(logit)) / N
    """

    initial_scale: float = 10.0
    initial_bias: float = -10.0

    def __post_init__(self) -> None:
        """Checks the scale."""
        if not self.initial_scale > 0:
            raise ValueError(
                f"initial_scale is {self.initial_scale}; it multiplies cosine similarities and must be above 0: 10, say"
            )

    @at_least_float32
    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Returns the terms for the embeddings (N, D) of two views of the whole batch.

        Args:
            scale, bias: (), instead of the initial ones.
            groups: (N,) int64; rows with equal numbers are positives of each other. None: each row only of itself.

        Raises:
            ValueError: unless a and b are (N, D) with N >= 2, and scale, bias and groups as above.
        """
        check_pair(a, b)
        scale = scalar("scale", scale, self.initial_scale, a)
        bias = scalar("bias", bias, self.initial_bias, a)
        positive, negative = pair_losses(a, b, scale, bias, group_numbers(groups, a))
        return {"positive": positive, "negative": negative}

    def sanity(self, num_rows: int, num_features: int, scale: float | None = None, bias: float | None = None) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        For groups of one row; without scale and bias at the initial ones. With p the cosine of partners and q that of
        others, f(p, q) = softplus(-(scale p + bias)) + (N - 1) softplus(scale q + bias):
        collapsed: f(1, 1). Exact.
        independent: the mean of f(c, c) over the cosine c of two independent normal vectors. Exact.
        perfect: the lowest f over the p and q that unit vectors allow, see `_lowest`. Reached where N <= D (or D + 1,
            if that is a simplex); otherwise a bound.
        """
        check_sizes(num_rows, num_features)
        scale = self.initial_scale if scale is None else scale
        bias = self.initial_bias if bias is None else bias

        def loss(partner: float, other: float) -> float:
            return _softplus(-scale * partner - bias) + (num_rows - 1) * _softplus(scale * other + bias)

        return Sanity(loss(1, 1), _mean_over_cosines(loss, num_features), _lowest(loss, num_rows))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _mean_over_cosines(loss: Callable[[float, float], float], num_features: int, num_angles: int = 4096) -> float:
    """Returns the mean of loss(c, c) over the cosine c of two independent normal vectors with D features.

    Their angle has a density proportional to sin^(D - 2): midpoints over all angles, five a standard deviation at
    D = 65536.
    """
    angles = [math.pi * (k + 0.5) / num_angles for k in range(num_angles)]
    weights = [math.exp((num_features - 2) * math.log(math.sin(angle))) for angle in angles]
    values = [loss(math.cos(angle), math.cos(angle)) for angle in angles]
    return sum(w * x for w, x in zip(weights, values)) / sum(weights)


def _lowest(loss: Callable[[float, float], float], num_rows: int) -> float:
    """Returns the lowest loss(p, q) that unit vectors allow, p the cosine of partners and q that of others.

    For A, B (N, D) with unit rows the trace norm of A B^T is at most ||A|| ||B|| = N. Such matrices of cosines are a
    convex set, unchanged by renumbering the rows of both, and the loss is convex in them: so no other does better than
    the best with one p on the diagonal and one q elsewhere, whose trace norm is (N - 1) |p - q| + |p + (N - 1) q|.
    For each p that allows q down to ((N - 2) p - N) / (2 (N - 1)): from -1 at p = -1 to the simplex's -1 / (N - 1) at
    p = 1. In N dimensions all of these exist, by the singular value decomposition.
    """
    low, high = -1.0, 1.0

    def at(p: float) -> float:
        return loss(p, ((num_rows - 2) * p - num_rows) / (2 * (num_rows - 1)))

    for _ in range(100):  # thirds of a convex function
        third = (high - low) / 3
        if at(low + third) <= at(high - third):
            high -= third
        else:
            low += third
    return min(at(low), at(high))
