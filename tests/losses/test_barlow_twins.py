"""Barlow Twins against the official formula, a hand-computed case, and its invariances."""

import pytest
import torch

from losses import BarlowTwins


@pytest.fixture
def views():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(24, 10, dtype=torch.float64, generator=random)
    return a, a + torch.randn(24, 10, dtype=torch.float64, generator=random)


def official(a, b, lambd):
    """facebookresearch/barlowtwins@8e8d284 on one process, written with a mask."""
    num_rows, num_features = a.shape
    norm = torch.nn.BatchNorm1d(num_features, affine=False, dtype=a.dtype)
    c = norm(a).T @ norm(b) / num_rows
    on = torch.eye(num_features, dtype=torch.bool)
    return (c[on] - 1).pow(2).sum(), lambd * c[~on].pow(2).sum()


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_official_formula(views, dtype, rel):
    a, b = (z.to(dtype).requires_grad_() for z in views)
    invariance, redundancy = official(a, b, 5.1e-3)
    terms = BarlowTwins()(a, b)
    assert terms["invariance"].item() == pytest.approx(invariance.item(), rel=rel)
    assert terms["redundancy"].item() == pytest.approx(redundancy.item(), rel=rel)
    expected = torch.autograd.grad(invariance + redundancy, (a, b))
    torch.testing.assert_close(torch.autograd.grad(sum(terms.values()), (a, b)), expected, rtol=rel * 10, atol=rel)


def test_two_by_two_by_hand():
    """Two rows standardise to +1, -1: C is [[1, -1], [1, -1]], up to the eps in the variance."""
    a = torch.tensor([[1.0, 3.0], [-1.0, -3.0]])
    b = torch.tensor([[2.0, -1.0], [-2.0, 1.0]])
    terms = BarlowTwins(lambd=0.5)(a, b)
    assert terms["invariance"].item() == pytest.approx(4.0, rel=1e-4)
    assert terms["redundancy"].item() == pytest.approx(0.5 * 2, rel=1e-4)


def test_shift_and_scale_of_a_feature_change_nothing(views):
    a, b = views
    scale = torch.linspace(1, 50, a.shape[1], dtype=a.dtype)
    torch.testing.assert_close(BarlowTwins()(a * scale + 7, b - 3 * scale), BarlowTwins()(a, b), rtol=1e-4, atol=0)
    flipped = BarlowTwins()(-a, b)["invariance"]
    assert flipped > BarlowTwins()(a, b)["invariance"] + 1


def test_scale_multiplies_every_term(views):
    whole, scaled = BarlowTwins()(*views), BarlowTwins(scale=0.024)(*views)
    torch.testing.assert_close(scaled, {name: 0.024 * value for name, value in whole.items()})
