"""Barlow Twins: the cross-correlation matrix of the features of two views is pushed to the identity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .inputs import at_least_float32, check_pair
from .matrices import EPS
from .ranks import ALONE, Ranks
from .sanity import Sanity, check_sizes, identity_bound
from .split import Form, split


@dataclass(frozen=True)
class BarlowTwins:
    """Returns {"invariance", "redundancy"}: how far the features' cross-correlation (D, D) is from the identity.

    Args:
        lambd: weight of the off-diagonal elements.
        scale: factor on the whole loss. The published recipe has 1; its first version 0.024, solo-learn's 0.1 on CIFAR.
            Under LARS it only moves what LARS does not normalise (biases, BatchNorm) and the weight decay.

    Source: arXiv 2103.03230 eq. 1; facebookresearch/barlowtwins@8e8d284 main.py. The same value on one process; there
    each rank's gradient of the summed matrix is 1/W of the whole batch's, here it is whole.

    Equals this slow loop::

        def standardised(z, i):
            mean = sum(row[i] for row in z) / N
            variance = sum((row[i] - mean) ** 2 for row in z) / N
            return [(row[i] - mean) / sqrt(variance + 1e-5) for row in z]

        terms = {"invariance": 0.0, "redundancy": 0.0}
        for i in range(D):
            for j in range(D):
                c = sum(p * q for p, q in zip(standardised(a, i), standardised(b, j))) / N
                if i == j:
                    terms["invariance"] += scale * (c - 1) ** 2
                else:
                    terms["redundancy"] += scale * lambd * c**2
    """

    lambd: float = 5.1e-3
    scale: float = 1.0

    @at_least_float32
    def __call__(self, a: Tensor, b: Tensor, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """Returns the two terms for the embeddings (n, D) of two views, this rank's rows of the whole batch.

        Raises:
            ValueError: unless both are (n, D) with N >= 2 rows on all ranks.
        """
        check_pair(a, b, ranks)
        diagonal, rest = split(a, b, Form("features", EPS, ranks))
        return {
            "invariance": self.scale * (diagonal - 1).square().sum(),
            "redundancy": self.scale * self.lambd * rest,
        }

    def sanity(self, num_rows: int, num_features: int) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        Exact but for the 1e-5 added to variances:
        collapsed: a constant feature standardises to 0, so C = 0 and the diagonal costs D.
        independent: C holds sample correlations r of independent normals: E[r] = 0, E[r^2] = 1 / (N - 1), hence
            D (1 + 1 / (N - 1)) + lambd D (D - 1) / (N - 1).
        perfect: 0 where D <= N - 1. Otherwise C has rank N - 1 < D and cannot be the identity: `identity_bound`.
        """
        check_sizes(num_rows, num_features)
        N, D = num_rows, num_features
        independent = D * (1 + 1 / (N - 1)) + self.lambd * D * (D - 1) / (N - 1)
        perfect = identity_bound(D, min(D, N - 1), self.lambd)
        return Sanity(self.scale * D, self.scale * independent, self.scale * perfect)
