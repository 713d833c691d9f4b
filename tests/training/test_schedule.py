"""The schedule against its closed form and at its edges."""

import math

import pytest
import torch
from torch import nn

from training.schedule import learning_rate, set_learning_rate


def test_closed_form_at_chosen_points():
    # 10 steps of warm-up, then 90 of cosine: a third, a half and two thirds of the way down
    assert learning_rate(0, 100, 10) == 0
    assert learning_rate(1, 100, 10) == pytest.approx(0.1)
    assert learning_rate(9, 100, 10) == pytest.approx(0.9)
    assert learning_rate(10, 100, 10) == 1
    for step, cosine in ((40, 0.75), (55, 0.5), (70, 0.25)):
        assert learning_rate(step, 100, 10, 0.0) == pytest.approx(cosine)
        assert learning_rate(step, 100, 10, 0.2) == pytest.approx(0.2 + 0.8 * cosine)


def test_default_end_is_a_thousandth():
    last = learning_rate(10**6 - 1, 10**6, 0)
    assert 0.001 < last < 0.001 + 1e-9


def test_rises_then_falls_within_zero_and_one():
    factors = [learning_rate(step, 50, 7) for step in range(50)]
    assert factors[:8] == sorted(factors[:8])
    assert factors[7:] == sorted(factors[7:], reverse=True)
    assert len(set(factors)) == 50
    assert (min(factors), max(factors)) == (0, 1)


def test_edges():
    assert learning_rate(0, 1, 0) == 1  # no warm-up starts at the peak
    assert [learning_rate(step, 4, 4) for step in range(4)] == [0, 0.25, 0.5, 0.75]  # nothing but warm-up
    assert learning_rate(99, 100, 99) == 1
    last = learning_rate(99, 100, 0, 0.0)
    assert last == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    assert last > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((5, 5, 1), "step 5 .* between 0 and 4"),
        ((-1, 5, 1), "step -1"),
        ((0, 5, 6), "6 steps long: must be between 0 and the run's 5"),
        ((0, 5, -1), "-1 steps long"),
        ((0, 5, 0, 1.5), "final_fraction is 1.5"),
    ],
)
def test_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        learning_rate(*arguments)


def test_each_group_follows_its_own_peak():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [a], "peak_lr": 2.0}, {"params": [b], "peak_lr": 0.1}], lr=7.0)
    for factor in (0.0, 0.5, 1.0):  # from the peak each time, not from the last value
        set_learning_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.0 * factor, 0.1 * factor])
        assert all(type(group["lr"]) is float for group in optimizer.param_groups)
