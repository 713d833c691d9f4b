"""N-pairs and NT-Xent against the seed's function, a plain double loop, hand-computed cases and invariances."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses import NPairs, NTXent

CONTRASTIVE = [NPairs(), NPairs(1.0, symmetric=False), NTXent()]


@pytest.fixture
def views():
    random = torch.Generator().manual_seed(0)
    a = torch.randn(12, 7, dtype=torch.float64, generator=random)
    return a, a + torch.randn(12, 7, dtype=torch.float64, generator=random)


def seed(images, descriptions):
    """The project's first loss: cosine matrix, cross-entropy of its rows against the identity."""
    cosines = F.normalize(images) @ F.normalize(descriptions).T
    return F.cross_entropy(cosines, torch.arange(len(images)))


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
def test_one_sided_n_pairs_at_temperature_one_is_the_seeds_loss(views, dtype, rel):
    a, b = (z.to(dtype).requires_grad_() for z in views)
    terms = NPairs(1.0, symmetric=False)(a, b)
    assert list(terms) == ["a_to_b"]
    assert terms["a_to_b"].item() == pytest.approx(seed(a, b).item(), rel=rel)
    gradients = torch.autograd.grad(terms["a_to_b"], (a, b))
    torch.testing.assert_close(gradients, torch.autograd.grad(seed(a, b), (a, b)), rtol=1e-4, atol=rel)


def test_symmetric_n_pairs_is_the_mean_of_rows_and_columns(views):
    a, b = views
    logits = F.normalize(a) @ F.normalize(b).T / 0.07
    right = torch.arange(len(a))
    terms = NPairs(0.07)(a, b)
    torch.testing.assert_close(terms["a_to_b"], F.cross_entropy(logits, right) / 2)
    torch.testing.assert_close(terms["b_to_a"], F.cross_entropy(logits.T, right) / 2)
    assert not torch.isclose(terms["a_to_b"], terms["b_to_a"], rtol=1e-4)


def test_nt_xent_equals_a_double_loop_over_pairs(views):
    """The paper's l(i, j), averaged over l(2k - 1, 2k) + l(2k, 2k - 1), with views interleaved as there."""
    z = F.normalize(torch.stack(views, dim=1).flatten(0, 1))
    temperature, losses = 0.2, []
    for k in range(0, len(z), 2):
        for i, j in ((k, k + 1), (k + 1, k)):
            denominator = sum(math.exp(z[i] @ z[m] / temperature) for m in range(len(z)) if m != i)
            losses.append(-math.log(math.exp(z[i] @ z[j] / temperature) / denominator))
    assert sum(NTXent(temperature)(*views).values()).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_two_by_two_by_hand():
    eye = torch.eye(2)
    terms = NPairs(1.0)(eye, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))  # cosines [[1, 1], [0, 0]]
    assert terms["a_to_b"].item() == pytest.approx(math.log(2) / 2)
    right, wrong = math.log((math.e + 1) / math.e), math.log(math.e + 1)
    assert terms["b_to_a"].item() == pytest.approx((right + wrong) / 2 / 2)
    # Each of four views: partner at cosine 1, two others at 0.
    assert sum(NTXent(1.0)(eye, eye).values()).item() == pytest.approx(math.log((math.e + 2) / math.e))


@pytest.mark.parametrize("loss", CONTRASTIVE, ids=str)
def test_length_of_rows_and_common_rotation_change_nothing(views, loss):
    a, b = views
    lengths = torch.linspace(0.1, 90, len(a), dtype=a.dtype)[:, None]
    rotation = torch.linalg.qr(a.T @ b)[0]
    torch.testing.assert_close(loss(a * lengths, b / lengths), loss(a, b))
    torch.testing.assert_close(loss(a @ rotation, b @ rotation), loss(a, b))
    assert not torch.isclose(sum(loss(a @ rotation, b).values()), sum(loss(a, b).values()), rtol=1e-2)


@pytest.mark.parametrize("loss", [NPairs, NTXent])
def test_small_temperature_does_not_overflow_and_zero_is_refused(views, loss):
    a, b = (z.float().requires_grad_() for z in views)
    value = sum(loss(1e-4)(a, b).values())
    value.backward()
    assert value.isfinite()
    assert a.grad.isfinite().all()
    for temperature in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {temperature}"):
            loss(temperature)
