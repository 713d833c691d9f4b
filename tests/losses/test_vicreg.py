"""VICReg against the official formula, a hand-computed case, and its invariances."""

import pytest
import torch
import torch.nn.functional as F

from losses import VICReg


@pytest.fixture
def views():
    random = torch.Generator().manual_seed(0)
    a = 0.8 * torch.randn(24, 10, dtype=torch.float64, generator=random)
    return a, a + 0.5 * torch.randn(24, 10, dtype=torch.float64, generator=random)


def official(a, b):
    """facebookresearch/vicreg@4e12602 on one process, written with torch.cov and a mask."""
    num_features = a.shape[1]
    apart = ~torch.eye(num_features, dtype=torch.bool)
    hinge = [F.relu(1 - torch.sqrt(z.var(0) + 1e-4)).mean() for z in (a, b)]
    spread = [z.T.cov()[apart].pow(2).sum() / num_features for z in (a, b)]
    return 25 * F.mse_loss(a, b), 25 * (hinge[0] / 2 + hinge[1] / 2), spread[0] + spread[1]


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradient_equal_the_official_formula(views, dtype, rel):
    a, b = (z.to(dtype).requires_grad_() for z in views)
    expected = official(a, b)
    terms = VICReg()(a, b)
    assert list(terms) == ["invariance", "variance", "covariance"]
    assert [value.item() for value in terms.values()] == pytest.approx([value.item() for value in expected], rel=rel)
    gradients = torch.autograd.grad(sum(terms.values()), (a, b))
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(expected), (a, b)), rtol=rel * 10, atol=rel)


def test_two_by_two_by_hand():
    """Variances (N - 1 = 1): 2 and 0 in a, 2 and 8 in b; covariance 0 in a, 4 in b."""
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    b = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    terms = VICReg()(a, b)
    assert terms["invariance"].item() == pytest.approx(25 * (4 + 4) / 4)
    assert terms["variance"].item() == pytest.approx(25 * (0.99 / 2) / 2)
    assert terms["covariance"].item() == pytest.approx((16 + 16) / 2)


def test_common_shift_changes_nothing_and_one_sided_only_the_invariance(views):
    a, b = views
    shift = torch.linspace(-3, 3, a.shape[1], dtype=a.dtype)
    before, together, apart = VICReg()(a, b), VICReg()(a + shift, b + shift), VICReg()(a + shift, b)
    torch.testing.assert_close(together, before)
    for name in ("variance", "covariance"):
        torch.testing.assert_close(apart[name], before[name])
    assert apart["invariance"] > before["invariance"] + 1


def test_each_weight_scales_its_own_term(views):
    doubled = VICReg(invariance=50, variance=75, covariance=4)(*views)
    expected = {name: value * factor for (name, value), factor in zip(VICReg()(*views).items(), (2, 3, 4))}
    torch.testing.assert_close(doubled, expected)
