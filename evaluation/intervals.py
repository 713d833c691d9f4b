"""An accuracy and how sure it is: values by seed of the probe, and a bootstrap interval over the test images."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 100_000  # the ends then move by under 0.01 standard errors from one generator to another: 20 ms


@dataclass(frozen=True)
class Metric:
    """One accuracy in percent, a value a seed (one value where nothing is random).

    interval: 95 % for the mean over seeds, from `bootstrap`; None where a choice was made on the test split, or where
        the value is no share of images.
    num_images: of the test split; None where there is no interval.
    """

    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    num_images: int | None = None

    @classmethod
    def of(cls, right: Tensor) -> Metric:
        """Returns the accuracy of what is right of M test images by S seeds, (S, M) bool, with its interval."""
        values = tuple((100 * right.double().mean(dim=1)).tolist())
        return cls(values, bootstrap(right), right.shape[1])

    @property
    def mean(self) -> float:
        """Returns the mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Returns the sample standard deviation over seeds, or None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        """Returns "91.23 ± 0.04 [90.70, 91.75]"."""
        spread = f" ± {self.std:.2f}" if self.std is not None else ""
        return f"{self.mean:.2f}{spread}" + (
            "" if self.interval is None else " [{:.2f}, {:.2f}]".format(*self.interval)
        )


def bootstrap(right: Tensor) -> tuple[float, float]:
    """Returns the percentile interval (low, high) of the mean over seeds in percent, test images drawn again.

    An image's level is the share of seeds that have it right: one of S + 1 values. How often each level is drawn among
    M images with replacement is multinomial, so the draws are of S + 1 counts, not of M images, and the same in law.
    Always the same random numbers.

    Args:
        right: (S, M) bool, of S seeds and M images.

    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979), section 2.
    """
    num_seeds, num_images = right.shape
    counts = torch.bincount(right.sum(dim=0), minlength=num_seeds + 1).double().numpy()
    drawn = np.random.default_rng(0).multinomial(num_images, counts / counts.sum(), size=DRAWS)
    means = drawn @ (100 * np.arange(num_seeds + 1) / (num_seeds * num_images))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
