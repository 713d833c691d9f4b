"""Sample correlation: the correlation matrix of the samples of two views is pushed to the identity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .inputs import at_least_float32, check_pair
from .matrices import EPS, Divisor, check_divisor
from .ranks import ALONE, Ranks
from .sanity import Sanity, check_sizes, identity_bound
from .split import Form, split


@dataclass(frozen=True)
class SampleCorrelation:
    """Returns {"invariance", "contrast"}: how far the samples' correlation (N, N) is from the identity.

    Each sample is standardised over its own features, so that the two views of one image should correlate at 1 and
    those of different images at 0. It is Barlow Twins with rows and columns exchanged.

    Args:
        lambd: weight of the off-diagonal elements, pairs of different samples.
        scale: factor on the whole loss.
        divisor: "features" divides the sum over features by D, a correlation: 1 for equal samples. "samples" divides
            by N, as Barlow Twins' code does when it is fed the transposed embeddings: the diagonal then reaches D / N.

    Raises:
        ValueError: for another divisor.
    Source: ours; in the form of arXiv 2103.03230 eq. 1.

    Equals this slow loop::

        def standardised(row):
            mean = sum(row) / D
            variance = sum((x - mean) ** 2 for x in row) / D
            return [(x - mean) / sqrt(variance + 1e-5) for x in row]

        terms = {"invariance": 0.0, "contrast": 0.0}
        for i in range(N):
            for j in range(N):
                c = sum(p * q for p, q in zip(standardised(a[i]), standardised(b[j])))
                c /= D if divisor == "features" else N
                if i == j:
                    terms["invariance"] += scale * (c - 1) ** 2
                else:
                    terms["contrast"] += scale * lambd * c**2
    """

    lambd: float = 5e-3
    scale: float = 0.025
    divisor: Divisor = "features"

    def __post_init__(self) -> None:
        """Checks the divisor."""
        check_divisor(self.divisor)

    @at_least_float32
    def __call__(self, a: Tensor, b: Tensor, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """Returns the two terms for the embeddings (n, D) of two views, this rank's rows of the whole batch.

        Raises:
            ValueError: unless both are (n, D) with N >= 2 rows on all ranks.
        """
        check_pair(a, b, ranks)
        num_rows, num_features = len(a) * ranks.size, a.shape[1]
        diagonal, rest = split(a, b, Form("samples", EPS, ranks))
        factor = 1.0 if self.divisor == "features" else num_features / num_rows
        return {
            "invariance": self.scale * ranks.sum((factor * diagonal - 1).square().sum()),
            "contrast": self.scale * self.lambd * factor**2 * rest,
        }

    def sanity(self, num_rows: int, num_features: int) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        With q what two equal samples correlate at (1, or D / N for "samples"), and but for the 1e-5 added to variances:
        collapsed: every c_ij = q, hence N (q - 1)^2 + lambd N (N - 1) q^2.
        independent: c_ij = q r with r the sample correlation of D independent normals: E[r] = 0, E[r^2] = 1 / (D - 1),
            hence N (1 + q^2 / (D - 1)) + lambd N (N - 1) q^2 / (D - 1).
        perfect: for "features" 0 where N <= D - 1. Otherwise, and for q < 1, a bound: `identity_bound`, as the matrix
            has rank <= D - 1 and a diagonal <= q.
        """
        check_sizes(num_rows, num_features)
        N, D = num_rows, num_features
        q = 1.0 if self.divisor == "features" else D / N
        collapsed = N * (q - 1) ** 2 + self.lambd * N * (N - 1) * q**2
        independent = N * (1 + q**2 / (D - 1)) + self.lambd * N * (N - 1) * q**2 / (D - 1)
        perfect = identity_bound(N, min(N, D - 1), self.lambd, reach=q)
        return Sanity(self.scale * collapsed, self.scale * independent, self.scale * perfect)
