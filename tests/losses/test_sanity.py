"""The sanity lines against computed values: collapse, mean of many draws, and what descent can reach."""

import pytest
import torch

from losses import BarlowTwins, NPairs, NTXent, SampleCorrelation, Sanity, SigLIP, VICReg


def total(terms):
    return sum(value.item() for value in terms.values())


def draws(loss, num_rows, num_features, num_draws, seed=0):
    random = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, num_draws, num_rows, num_features, generator=random)
    return [loss(x, y) for x, y in zip(a, b)]


@pytest.mark.parametrize(("num_rows", "num_features"), [(12, 5), (5, 12)])
def test_collapsed_is_the_value_of_equal_rows(loss, num_rows, num_features):
    row = 100 * torch.randn(num_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = row.expand(num_rows, num_features)
    value = total(loss(rows, rows))
    assert isinstance(loss.sanity(num_rows, num_features), Sanity)
    assert value == pytest.approx(loss.sanity(num_rows, num_features).collapsed, rel=1e-8)


@pytest.mark.parametrize(("num_rows", "num_features"), [(64, 256), (128, 208)])
def test_independent_is_the_mean_of_draws_within_its_standard_error(loss, num_rows, num_features):
    values = torch.tensor([total(terms) for terms in draws(loss, num_rows, num_features, 100)])
    error = values.std().item() / len(values) ** 0.5
    assert error < 4e-3 * abs(values.mean().item())  # or the next line would accept anything
    assert loss.sanity(num_rows, num_features).independent == pytest.approx(values.mean().item(), abs=4 * error)


def test_independent_approximations_are_as_good_as_their_docstrings_say():
    only_variance = VICReg(invariance=0.0, variance=1.0, covariance=0.0)
    for num_rows in (8, 64):
        mean = sum(map(total, draws(only_variance, num_rows, 512, 100))) / 100
        assert only_variance.sanity(num_rows, 2).independent == pytest.approx(mean, rel=0.01)
    mean = sum(map(total, draws(NPairs(0.07), 256, 128, 100))) / 100
    assert 0.001 < NPairs(0.07).sanity(256, 128).independent / mean - 1 < 0.004
    mean = sum(map(total, draws(NPairs(0.07), 256, 16, 20))) / 20
    assert 0.12 < NPairs(0.07).sanity(256, 16).independent / mean - 1 < 0.16


def descend(loss, num_rows, num_features, num_steps=300):
    """Returns the lowest value found by gradient descent on free embeddings."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, num_rows, num_features, dtype=torch.float64, generator=random).unbind()
    a, b = a.requires_grad_(), (a.detach() + 0.1 * b).requires_grad_()
    optimizer = torch.optim.Adam([a, b], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    lowest = float("inf")
    for _ in range(num_steps):
        optimizer.zero_grad()
        value = torch.stack(list(loss(a, b).values())).sum()
        value.backward()
        lowest = min(lowest, value.item())
        optimizer.step()
        schedule.step()
    return lowest


REACHED = [
    (BarlowTwins(), 10, 6),
    (BarlowTwins(), 6, 20),
    (BarlowTwins(lambd=0.5, scale=3.0), 5, 16),
    (VICReg(), 10, 6),
    (VICReg(), 6, 10),
    (VICReg(), 6, 80),  # so many features that less than unit variance is better
    (NPairs(0.5), 6, 8),
    (NPairs(1.0, symmetric=False), 6, 8),
    (SigLIP(4.0, -2.0), 6, 8),
    (SigLIP(10.0, -10.0), 6, 5),  # a simplex
    (SigLIP(4.0, 1.0), 6, 8),  # others weigh so much that partners are best at a right angle, nearly
    (SigLIP(2.0, 6.0), 6, 8),  # and here opposite, like all others
    (NTXent(0.5), 6, 8),
    (SampleCorrelation(), 6, 10),
    (SampleCorrelation(lambd=0.5, scale=1.0), 20, 6),
    (SampleCorrelation(divisor="samples"), 8, 6),  # the diagonal cannot reach more than 6 / 8
]


@pytest.mark.parametrize(("loss", "num_rows", "num_features"), REACHED, ids=str)
def test_perfect_is_reached_by_descent_and_not_passed(loss, num_rows, num_features):
    sanity = loss.sanity(num_rows, num_features)
    slack = 1e-3 * sanity.collapsed  # the eps in variances, and descent that ends a little early
    found = descend(loss, num_rows, num_features)
    assert sanity.perfect - slack / 10 <= found <= sanity.perfect * 1.005 + slack


BOUNDS = [
    (BarlowTwins(lambd=3.0), 5, 16),
    (VICReg(variance=4.0), 6, 20),
    (NPairs(0.1), 12, 3),
    (SigLIP(), 12, 3),
    (NTXent(0.1), 12, 3),
    (SampleCorrelation(divisor="samples"), 12, 5),
]


@pytest.mark.parametrize(("loss", "num_rows", "num_features"), BOUNDS, ids=str)
def test_perfect_stays_a_bound_where_it_is_called_one(loss, num_rows, num_features):
    assert descend(loss, num_rows, num_features, 150) >= loss.sanity(num_rows, num_features).perfect


def test_lines_of_n_pairs_follow_a_learned_scale():
    assert NPairs(0.07).sanity(64, 32, scale=10.0) == NPairs(0.1).sanity(64, 32)
    assert NPairs(0.07).sanity(64, 32, scale=1.0).collapsed == NPairs(0.07).sanity(64, 32).collapsed


def test_sizes_without_meaning_are_refused(loss):
    for sizes in ((1, 8), (8, 1)):
        with pytest.raises(ValueError, match=f"{sizes[0]} rows, {sizes[1]} features"):
            loss.sanity(*sizes)
