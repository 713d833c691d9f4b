"""N-pairs, SigLIP and NT-Xent against the seed's function, a plain double loop, hand-computed cases and invariances."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from losses import NPairs, NTXent, SigLIP

CONTRASTIVE = [NPairs(), NPairs(1.0, symmetric=False), SigLIP(), NTXent()]


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


def test_a_given_scale_replaces_one_over_temperature_and_gets_its_gradient(views):
    a, b = views
    scale = torch.tensor(14.0, dtype=a.dtype, requires_grad=True)
    terms = NPairs(123.0)(a, b, scale)
    torch.testing.assert_close(terms, NPairs(1 / 14)(a, b))
    (found,) = torch.autograd.grad(sum(terms.values()), scale)
    step = 1e-5
    higher, lower = (sum(NPairs(1 / (14 + h))(a, b).values()) for h in (step, -step))
    assert found.item() == pytest.approx(((higher - lower) / (2 * step)).item(), rel=1e-6)
    assert NPairs(0.07).initial_scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("groups", [[3, 3, 3, 3], [7, -1, 7, 7], [0, 2, 1, 0], [5, 6, 7, 8]], ids=str)
@pytest.mark.parametrize("loss", [NPairs(), NPairs(0.5, symmetric=False), SigLIP(5.0, -2.0)], ids=str)
def test_groups_and_learned_numbers_equal_the_slow_loop(views, slow, loss, groups):
    a, b = (z[:4] for z in views)
    learned = {"scale": 3.0, "bias": -0.5} if isinstance(loss, SigLIP) else {"scale": 3.0}
    for numbers in (learned, {}):
        tensors = {name: torch.tensor(value, dtype=a.dtype) for name, value in numbers.items()}
        found = loss(a, b, groups=torch.tensor(groups), **tensors)
        expected = slow(loss, a, b, groups=groups, **numbers)
        assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [NPairs(), SigLIP()], ids=str)
def test_groups_of_one_are_the_identity_target_and_names_of_groups_do_not_matter(views, loss):
    """Without groups every row is its own only partner: the seed's target, to the bit."""
    alone = torch.tensor([9, -4, 7, 2**62, 0, 1, 2, 3, 4, 5, 6, -(2**62)])
    torch.testing.assert_close(loss(*views, groups=alone), loss(*views), rtol=0, atol=0)
    groups = torch.tensor([0, 1, 0, 2, 2, 3, 4, 5, 0, 6, 7, 7])
    other = loss(*views, groups=groups)
    torch.testing.assert_close(loss(*views, groups=1000 - 3 * groups), other)
    assert not torch.isclose(sum(other.values()), sum(loss(*views).values()), rtol=1e-3)
    order = torch.tensor([5, 2, 11, 0, 1, 3, 4, 10, 9, 8, 7, 6])
    torch.testing.assert_close(loss(*(z[order] for z in views), groups=groups[order]), other)


def test_groups_by_hand():
    eye, same = torch.eye(2), torch.tensor([5, 5])
    right, wrong = math.log((math.e + 1) / math.e), math.log(math.e + 1)
    assert sum(NPairs(1.0)(eye, eye).values()).item() == pytest.approx(right)
    terms = NPairs(1.0)(eye, eye, groups=same)  # both answers are right: half the weight each
    assert sum(terms.values()).item() == pytest.approx((right + wrong) / 2)
    collapsed = torch.ones(6, 3)
    for groups in (None, torch.tensor([0, 0, 1, 2, 2, 2])):
        assert sum(NPairs()(collapsed, collapsed, groups=groups).values()).item() == pytest.approx(math.log(6))


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_value_and_gradients_equal_open_clips(dtype, rel):
    loss = pytest.importorskip("open_clip.loss").ClipLoss()
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 16, dtype=torch.float64, generator=random).to(dtype)
    a, b, scale = a.requires_grad_(), b.requires_grad_(), torch.tensor(30.0, dtype=dtype, requires_grad=True)
    official = loss(F.normalize(a), F.normalize(b), scale)
    ours = sum(NPairs()(a, b, scale, torch.arange(40)).values())
    assert ours.item() == pytest.approx(official.item(), rel=rel)
    expected = torch.autograd.grad(official, (a, b, scale))
    torch.testing.assert_close(torch.autograd.grad(ours, (a, b, scale)), expected, rtol=rel * 100, atol=rel)


@pytest.mark.parametrize("loss", [NPairs(), SigLIP()], ids=str)
def test_wrong_groups_and_scales_are_named(views, loss):
    a, b = views
    for groups in (torch.arange(11), torch.arange(24).view(12, 2)):
        with pytest.raises(ValueError, match=re.escape(f"groups are torch.int64 {tuple(groups.shape)}")):
            loss(a, b, groups=groups)
    with pytest.raises(ValueError, match=r"groups are torch\.float64 \(12,\).*int64"):
        loss(a, b, groups=torch.arange(12.0, dtype=torch.float64))
    for scale, shown in (
        (torch.ones(1), r"torch\.float32 \(1,\)"),
        (14.0, "14.0"),
        (torch.tensor(14), r"torch\.int64 \(\)"),
    ):
        with pytest.raises(ValueError, match=f"scale is {shown}"):
            loss(a, b, scale)


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
