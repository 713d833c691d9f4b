"""What a loss is worth in three known situations: lines for a plot, thresholds for a collapse alarm."""

from __future__ import annotations

from typing import NamedTuple


class Sanity(NamedTuple):
    """Values of a loss, the sum of its terms.

    collapsed: every sample of both views has the same embedding, some vector with unequal entries.
    independent: expected value when all embeddings are independent standard normal.
    perfect: the lowest possible value; each loss says when it can be reached and when it is only a bound.
    """

    collapsed: float
    independent: float
    perfect: float


def check_sizes(num_rows: int, num_features: int) -> None:
    """Checks that a loss of two views means something at this size.

    Raises:
        ValueError: unless num_rows >= 2 and num_features >= 2.
    """
    if num_rows < 2 or num_features < 2:
        raise ValueError(f"size is {num_rows} rows, {num_features} features; sanity lines need at least 2 of each")


def identity_bound(size: int, rank: int, lambd: float, reach: float = 1.0) -> float:
    """Returns a lower bound of sum_i (c_ii - 1)^2 + lambd sum_{i!=j} c_ij^2 over correlation matrices c.

    c is (size, size), of rank <= `rank`, with |c_ii| <= `reach`. With t the mean of the diagonal, ||c||^2 >=
    (trace c)^2 / rank = size^2 t^2 / rank. For lambd <= 1 the rest, sum_i (c_ii - 1)^2 - lambd c_ii^2, is convex in the
    diagonal, hence lowest when all c_ii = t. That leaves size ((1 - t)^2 + k t^2) with k = lambd (size - rank) / rank,
    lowest at t = 1 / (1 + k). The loss grows with lambd, so for lambd > 1 the bound of lambd = 1 holds.
    It is 0 when rank = size and reach >= 1. When rank < size it can be reached by equal-norm tight frames.
    """
    k = min(lambd, 1.0) * (size - rank) / rank
    t = min(reach, 1 / (1 + k))
    return size * ((1 - t) ** 2 + k * t**2)
