"""VICReg: equal views, features of at least unit variance, no covariance between features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .inputs import at_least_float32, check_pair
from .ranks import ALONE, Ranks
from .sanity import Sanity, check_sizes
from .split import Form, split


@dataclass(frozen=True)
class VICReg:
    """Returns {"invariance", "variance", "covariance"}: the views' distance, missing variance, covarying features.

    Args:
        invariance: weight of the mean squared difference of the two views.
        variance: weight of the hinge on each feature's standard deviation, the mean over both views. solo-learn sums
            the two views instead: its 25 is 50 here.
        covariance: weight of the squared off-diagonal covariances, divided by D and summed over both views.
        eps: added to variances under the root.

    Source: arXiv 2105.04906 eq. 1 to 6; facebookresearch/vicreg@4e12602 main_vicreg.py. Denominators N - 1 as there.

    Equals this slow loop::

        def centred(z, i):
            mean = sum(row[i] for row in z) / N
            return [row[i] - mean for row in z]

        terms = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}
        for n in range(N):
            for i in range(D):
                terms["invariance"] += invariance * (a[n][i] - b[n][i]) ** 2 / (N * D)
        for z in (a, b):
            for i in range(D):
                for j in range(D):
                    c = sum(p * q for p, q in zip(centred(z, i), centred(z, j))) / (N - 1)
                    if i == j:
                        terms["variance"] += variance * max(0, 1 - sqrt(c + eps)) / D / 2
                    else:
                        terms["covariance"] += covariance * c**2 / D
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    eps: float = 1e-4

    @at_least_float32
    def __call__(self, a: Tensor, b: Tensor, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """Returns the three terms for the embeddings (n, D) of two views, this rank's rows of the whole batch.

        Raises:
            ValueError: unless both are (n, D) with N >= 2 rows on all ranks.
        """
        check_pair(a, b, ranks)
        (hinge_a, covariance_a), (hinge_b, covariance_b) = (self._spread(z, ranks) for z in (a, b))
        return {
            "invariance": self.invariance * ranks.sum((a - b).square().mean()) / ranks.size,
            "variance": self.variance * (hinge_a + hinge_b) / 2,
            "covariance": self.covariance * (covariance_a + covariance_b),
        }

    def _spread(self, z: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Returns one view's mean hinge on the standard deviation, and its squared covariances over D: two scalars."""
        num_rows, num_features = len(z) * ranks.size, z.shape[1]
        # The root on each factor: dividing one by N - 1 would keep two (n, D) for the backward pass.
        z = (z - ranks.sum(z.sum(0)) / num_rows) / math.sqrt(num_rows - 1)
        variances, rest = split(z, None, Form("features", ranks=ranks))
        return (1 - (variances + self.eps).sqrt()).relu().mean(), rest / num_features

    def sanity(self, num_rows: int, num_features: int) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        With V, C the weights of variance and covariance and n = N - 1:
        collapsed: no variance at all, V (1 - sqrt(eps)); the other terms are 0. Exact.
        independent: the views differ by 2 in the mean square and E[covariance^2] = 1 / n, both exact. A sample standard
            deviation is taken as normal around 1 - 1 / (4 n) with variance 1 / (2 n), to first order, an
            approximation: the mean hinge is 1 / (2 sqrt(pi n)) + 1 / (8 n). Within 1 % from N = 8.
        perfect: 0 where D <= n. Otherwise the covariance has rank n < D: with variances v <= 1 (more never helps) its
            squared off-diagonal is at least (sum v)^2 / n - sum v^2, and V (1 - sqrt(v)) / 2 - C v^2 is convex for
            V >= 16 C, hence lowest for equal v: V (1 - sqrt(v)) + 2 C k v^2 with k = (D - n) / n, lowest at
            v^1.5 = V / (8 C k) or at 1. Equal-norm tight frames reach it (but for eps). With a smaller V only a bound:
            that of C = V / 16.
        """
        check_sizes(num_rows, num_features)
        n, D = num_rows - 1, num_features
        hinge = 1 / (2 * math.sqrt(math.pi * n)) + 1 / (8 * n)
        independent = 2 * self.invariance + self.variance * hinge + self.covariance * 2 * (D - 1) / n
        weight = 2 * min(self.covariance, self.variance / 16) * max(0, D - n) / n
        v = 1.0 if weight == 0 else min(1.0, (self.variance / (4 * weight)) ** (2 / 3))
        perfect = self.variance * (1 - math.sqrt(v)) + weight * v**2
        return Sanity(self.variance * max(0.0, 1 - math.sqrt(self.eps)), independent, perfect)
