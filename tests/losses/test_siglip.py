"""SigLIP against hand-computed cases and open_clip's loss, what its numbers do, and its lowest value."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses import SigLIP


def softplus(x):
    return math.log1p(math.exp(x))


def test_two_by_two_by_hand():
    """Logits are 2 cos - 1: 1 for partners, -1 for others."""
    eye = torch.eye(2)
    terms = SigLIP(2.0, -1.0)(eye, eye)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"positive": softplus(-1), "negative": softplus(-1)}
    )
    terms = SigLIP()(eye, eye, torch.tensor(2.0), torch.tensor(-1.0), torch.tensor([3, 3]))
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"positive": softplus(-1) + softplus(1), "negative": 0}
    )


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_value_and_gradients_equal_open_clips(dtype, rel):
    loss = pytest.importorskip("open_clip.loss").SigLipLoss()
    random = torch.Generator().manual_seed(0)
    numbers = (*torch.randn(2, 40, 16, generator=random, dtype=torch.float64), torch.tensor(30.0), torch.tensor(-8.0))
    a, b, scale, bias = (x.to(dtype).requires_grad_() for x in numbers)
    official = loss(F.normalize(a), F.normalize(b), scale, bias)
    ours = sum(SigLIP()(a, b, scale, bias, torch.arange(40)).values())
    assert ours.item() == pytest.approx(official.item(), rel=rel)
    expected = torch.autograd.grad(official, (a, b, scale, bias))
    found = torch.autograd.grad(ours, (a, b, scale, bias))
    torch.testing.assert_close(found, expected, rtol=rel * 100, atol=rel)


def test_positive_pairs_only_pull_and_negative_pairs_only_push():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, 5, generator=random)
    a = a.requires_grad_()
    cosines = F.normalize(a) @ F.normalize(b).T
    terms = SigLIP(scale := 3.0, -1.0)(a, b)
    for name, pairs, sign in (("positive", cosines.diagonal(), -1), ("negative", cosines, 1)):
        (found,) = torch.autograd.grad(terms[name], a, retain_graph=True)
        weights = scale * torch.sigmoid(sign * (scale * pairs.detach() - 1)) / 8
        weights = weights if name == "positive" else weights.fill_diagonal_(0)
        (expected,) = torch.autograd.grad((sign * weights * pairs).sum(), a, retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_large_logits_are_exact_and_finite():
    """softplus is neither cut off early (float64 sees e^-25) nor overflows."""
    a = torch.eye(3, dtype=torch.float64)
    terms = SigLIP(50.0, -25.0)(a, a)
    assert terms["positive"].item() == pytest.approx(softplus(-25), rel=1e-12)
    assert terms["negative"].item() == pytest.approx(2 * softplus(-25), rel=1e-12)
    wrong = SigLIP(1000.0, 500.0)(a.float(), -a.float())
    assert sum(wrong.values()).item() == pytest.approx(500 + 2 * 500)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match=f"initial_scale is {scale}"):
        SigLIP(initial_scale=scale)


def test_a_wrong_bias_is_named():
    with pytest.raises(ValueError, match=r"bias is torch\.float32 \(1,\)"):
        SigLIP()(torch.eye(2), torch.eye(2), bias=torch.zeros(1))


def test_sanity_lines_follow_a_learned_scale_and_bias():
    for scale, bias in ((1.0, 3.0), (100.0, -20.0)):
        assert SigLIP().sanity(9, 7, scale, bias) == SigLIP(scale, bias).sanity(9, 7)
    rows = torch.ones(9, 7, dtype=torch.float64)
    value = sum(SigLIP()(rows, rows, torch.tensor(4.0), torch.tensor(1.0)).values())
    assert SigLIP().sanity(9, 7, 4.0, 1.0).collapsed == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("num_features", [2, 3, 64, 4096])
def test_independent_is_exact_in_any_dimension(num_features):
    """By moments: with a scale that is nearly 0, softplus is a parabola of the cosine, whose square has mean 1 / D."""
    scale, num_rows = 1e-2, 5
    curvature = 1 / 4  # of softplus at 0
    expected = num_rows * (math.log(2) + curvature / 2 * scale**2 / num_features)
    found = SigLIP(scale, 0.0).sanity(num_rows, num_features).independent
    assert found - num_rows * math.log(2) == pytest.approx(expected - num_rows * math.log(2), rel=1e-3)
