"""Sample correlation against the seed's function, a hand-computed case, and its invariances."""

import pytest
import torch
import torch.nn.functional as F

from losses import BarlowTwins, SampleCorrelation


@pytest.fixture
def views():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(12, 7, dtype=torch.float64, generator=random)
    return a, a + torch.randn(12, 7, dtype=torch.float64, generator=random)


def seed(a, b):
    """The project's first form: each sample standardised, N x N products over N, lambda 5e-3, scale 0.025."""
    num_rows, num_features = a.shape
    c = F.layer_norm(a, (num_features,)) @ F.layer_norm(b, (num_features,)).T / num_rows
    squares = (c - torch.eye(num_rows, dtype=c.dtype)).pow(2)
    weights = torch.full_like(c, 5e-3).fill_diagonal_(1)
    return 0.025 * (weights * squares).sum()


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_divided_by_samples_is_the_seeds_loss(views, dtype, rel):
    a, b = (z.to(dtype).requires_grad_() for z in views)
    value = sum(SampleCorrelation(divisor="samples")(a, b).values())
    assert value.item() == pytest.approx(seed(a, b).item(), rel=rel)
    gradients = torch.autograd.grad(value, (a, b))
    torch.testing.assert_close(gradients, torch.autograd.grad(seed(a, b), (a, b)), rtol=1e-4, atol=rel)


def test_default_divides_by_features_and_sees_equal_samples_as_perfect(views):
    a, _ = views
    assert SampleCorrelation() == SampleCorrelation(lambd=5e-3, scale=0.025, divisor="features")
    assert SampleCorrelation()(a, a)["invariance"].item() == pytest.approx(0, abs=1e-8)
    # Divided by N = 12 instead of D = 7, the same samples are 5 / 12 off.
    assert SampleCorrelation(divisor="samples")(a, a)["invariance"].item() == pytest.approx(
        0.025 * 12 * (5 / 12) ** 2, rel=1e-3
    )


def test_is_barlow_twins_of_the_transposed_embeddings(views):
    a, b = views
    ours = SampleCorrelation(lambd=0.1, scale=1.0)(a, b)
    transposed = BarlowTwins(lambd=0.1)(a.T, b.T)
    torch.testing.assert_close(list(ours.values()), list(transposed.values()))


def test_two_by_two_by_hand():
    """Two features standardise to +1, -1: the correlations are [[1, 1], [-1, -1]], up to the eps in the variance."""
    a = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    b = torch.tensor([[5.0, 1.0], [2.0, 0.0]])
    terms = SampleCorrelation(lambd=0.5, scale=2.0)(a, b)
    assert terms["invariance"].item() == pytest.approx(2.0 * 4, rel=1e-4)
    assert terms["contrast"].item() == pytest.approx(2.0 * 0.5 * 2, rel=1e-4)


def test_shift_and_scale_of_a_sample_change_nothing(views):
    a, b = views
    scale = torch.linspace(1, 50, len(a), dtype=a.dtype)[:, None]
    loss = SampleCorrelation()
    torch.testing.assert_close(loss(a * scale + 7, b - 3 * scale), loss(a, b), rtol=1e-4, atol=0)


def test_another_divisor_is_refused(views):
    with pytest.raises(ValueError, match=r"divisor is 'rows'; it must be \"features\".*\"samples\""):
        SampleCorrelation(divisor="rows")
