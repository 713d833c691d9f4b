"""Contrastive losses: find the partner among all others by cosine similarity (N-pairs, CLIP, NT-Xent)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .inputs import at_least_float32, check_pair, group_numbers, scalar
from .sanity import Sanity, check_sizes
from .streamed import cross_entropies, cross_entropies_of_both


@dataclass(frozen=True)
class NPairs:
    """Returns {"a_to_b"}, and with `symmetric` {"b_to_a"}: the cross-entropy of finding each row's partner.

    The cosine similarities (N, N) of rows of `a` (images) and rows of `b` (descriptions), divided by the temperature,
    are logits whose right answer is the diagonal; with groups, evenly all rows of the same group. Symmetric, as in
    CLIP, each direction counts half. The matrix is never whole in memory: see `streamed.py`.

    Args:
        temperature: divides the similarities, where no scale is given; a learned scale starts at 1 / temperature.
        symmetric: also find the row of `a` among all for each row of `b`.

    Raises:
        ValueError: for a temperature that is not positive.
    Source: Sohn 2016 (N-pairs); arXiv 2103.00020 figure 3 (CLIP, where the temperature is learned, starting at 0.07).
    Groups are ours: equal captions are right answers, not false negatives.

    Equals this slow loop::

        def cosine(x, y):
            product = sum(p * q for p, q in zip(x, y))
            return product / sqrt(sum(p * p for p in x) * sum(q * q for q in y))

        scale, groups = scale or 1 / temperature, groups or range(N)
        terms = {"a_to_b": 0.0, "b_to_a": 0.0} if symmetric else {"a_to_b": 0.0}
        for i in range(N):
            partners = [j for j in range(N) if groups[j] == groups[i]]
            among_b = [exp(scale * cosine(a[i], b[j])) for j in range(N)]
            among_a = [exp(scale * cosine(a[j], b[i])) for j in range(N)]
            for j in partners:
                terms["a_to_b"] -= log(among_b[j] / sum(among_b)) / len(partners) / N / len(terms)
                if symmetric:
                    terms["b_to_a"] -= log(among_a[j] / sum(among_a)) / len(partners) / N / len(terms)
    """

    temperature: float = 0.07
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Checks the temperature."""
        _check_temperature(self.temperature)

    @property
    def initial_scale(self) -> float:
        """What a learned scale starts from: 1 / temperature."""
        return 1 / self.temperature

    @at_least_float32
    def __call__(
        self, a: Tensor, b: Tensor, scale: Tensor | None = None, groups: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the terms for the embeddings (N, D) of two views of the whole batch.

        Args:
            scale: (), multiplies the similarities instead of 1 / temperature.
            groups: (N,) int64; rows with equal numbers are positives of each other. None: each row only of itself.

        Raises:
            ValueError: unless a and b are (N, D) with N >= 2, and scale and groups as above.
        """
        check_pair(a, b)
        scale = scalar("scale", scale, self.initial_scale, a)
        terms = cross_entropies(a, b, scale, group_numbers(groups, a), self.symmetric)
        return {name: term / len(terms) for name, term in zip(("a_to_b", "b_to_a"), terms)}

    def sanity(self, num_rows: int, num_features: int, scale: float | None = None) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        The same with and without `symmetric`, for groups of one row; T is 1 / scale, or without one the temperature:
        collapsed: all logits are equal, log N. Exact, whatever the scale and the groups.
        independent: cosines have mean 0 and variance 1 / D. An approximation: they are taken as normal and the sum over
            many rows as its mean, hence log N + 1 / (2 T^2 D). It wants T^2 D of about 1 or more: at N = 256, T = 0.07
            it is 0.2 % too high for D = 128 and 14 % too high for D = 16.
        perfect: over all unit vectors the mean over j != i of cos(a_i, b_j) - cos(a_i, b_i) is at least -N / (N - 1),
            and the loss is convex in these: log(1 + (N - 1) exp(-N / ((N - 1) T))). Reached when a = b is a simplex,
            which exists where N <= D + 1; otherwise a bound.
        """
        check_sizes(num_rows, num_features)
        temperature = self.temperature if scale is None else 1 / scale
        return _sanity(num_rows, num_rows - 1, num_features, temperature)


@dataclass(frozen=True)
class NTXent:
    """Returns {"a_to_b", "b_to_a"}: the cross-entropy of finding each view's partner among all 2N - 1 other views.

    The mean over all 2N views; each term is the share of one half of them.

    Args:
        temperature: divides the cosine similarities.

    Raises:
        ValueError: for a temperature that is not positive.
    Source: arXiv 2002.05709 eq. 1 (SimCLR), the mean over all 2N views; google-research/simclr sums the two halves,
    so it reports twice this.

    Equals this slow loop::

        def cosine(x, y):
            product = sum(p * q for p, q in zip(x, y))
            return product / sqrt(sum(p * p for p in x) * sum(q * q for q in y))

        z = a + b
        terms = {"a_to_b": 0.0, "b_to_a": 0.0}
        for i in range(2 * N):
            partner = (i + N) % (2 * N)
            others = {k: exp(cosine(z[i], z[k]) / temperature) for k in range(2 * N) if k != i}
            terms["a_to_b" if i < N else "b_to_a"] -= log(others[partner] / sum(others.values())) / (2 * N)
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Checks the temperature."""
        _check_temperature(self.temperature)

    @at_least_float32
    def __call__(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Returns the two terms for the embeddings (N, D) of two views of the whole batch.

        Raises:
            ValueError: unless both are (N, D) with N >= 2.
        """
        check_pair(a, b)
        scale = scalar("scale", None, 1 / self.temperature, a)
        return dict(zip(("a_to_b", "b_to_a"), cross_entropies_of_both(a, b, scale)))

    def sanity(self, num_rows: int, num_features: int) -> Sanity:
        """Returns the loss's values when collapsed, independent and perfect, for N rows of D features.

        As for `NPairs`, with M = 2N - 1 candidates for each view:
        collapsed: log M. Exact.
        independent: log M + 1 / (2 T^2 D), the same approximation with the same limits.
        perfect: with equal views the mean cosine of different samples is at least -1 / (N - 1), and there are 2N - 2
            such candidates: log(1 + (2N - 2) exp(-N / ((N - 1) T))). Reached by a simplex where N <= D + 1, otherwise a
            bound.
        """
        check_sizes(num_rows, num_features)
        return _sanity(num_rows, 2 * num_rows - 2, num_features, self.temperature)


def _sanity(num_rows: int, num_negatives: int, num_features: int, temperature: float) -> Sanity:
    collapsed = math.log(num_negatives + 1)
    gap = num_rows / (num_rows - 1) / temperature
    perfect = math.log1p(num_negatives * math.exp(-gap))
    return Sanity(collapsed, collapsed + 1 / (2 * temperature**2 * num_features), perfect)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; it divides cosine similarities and must be above 0, such as 0.1"
        )
