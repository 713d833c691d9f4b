import math

import numpy as np
import pytest
import torch

from evaluation.intervals import Metric, bootstrap


def test_mean_and_spread():
    metric = Metric((90.0, 92.0, 94.0))
    assert metric.mean == 92
    assert metric.std == pytest.approx(np.std([90, 92, 94], ddof=1))
    assert str(metric) == "92.00 ± 2.00"
    assert (Metric((81.25,)).std, str(Metric((81.25,)))) == (None, "81.25")
    assert str(Metric((50.0,), (40.0, 60.125), 10)) == "50.00 [40.00, 60.12]"


def test_one_seeds_interval_is_the_binomials():
    """Of 40 images 30 right, drawn again: the count is binomial(40, 0.75), whose quantiles are summed up here."""
    right = torch.arange(40)[None] < 30
    mass = [math.comb(40, hits) * 0.75**hits * 0.25 ** (40 - hits) for hits in range(41)]
    reached = np.cumsum(mass)
    ends = [100 / 40 * int(np.searchsorted(reached, part)) for part in (0.025, 0.975)]
    assert Metric.of(right) == Metric((75.0,), (ends[0], ends[1]), 40)


def test_counts_drawn_are_images_drawn():
    """The interval of three seeds that agree on most images is what drawing the images themselves gives."""
    rng = np.random.default_rng(1)
    easy = rng.uniform(size=300)
    right = torch.from_numpy(rng.uniform(size=(3, 300)) * 0.3 + 0.7 * easy < 0.6)
    found = bootstrap(right)
    images = rng.integers(300, size=(20_000, 300))
    means = 100 * right.double().mean(dim=0).numpy()[images].mean(axis=1)
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.25)
    apart = [bootstrap(one[None]) for one in right]
    assert found[1] - found[0] < min(high - low for low, high in apart)  # three seeds say a little more than one


def test_all_right_has_no_width():
    assert bootstrap(torch.ones(2, 50, dtype=torch.bool)) == (100, 100)
