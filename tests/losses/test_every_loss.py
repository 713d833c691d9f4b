"""What holds for every loss: the slow loop of its docstring, shapes, precision, gradients, no state."""

import dataclasses
import math

import pytest
import torch

from losses import BarlowTwins, NPairs, VICReg


def pair(num_rows, num_features, dtype=torch.float64, seed=0):
    """Two related views with uneven features: neither perfect nor independent."""
    random = torch.Generator().manual_seed(seed)
    a = torch.randn(num_rows, num_features, dtype=torch.float64, generator=random)
    b = a + 0.7 * torch.randn(num_rows, num_features, dtype=torch.float64, generator=random)
    weights = torch.linspace(0.3, 1.5, num_features, dtype=torch.float64)
    return (a * weights + 0.4).to(dtype), (b * weights - 0.2).to(dtype)


def total(terms):
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize(("num_rows", "num_features"), [(5, 3), (3, 5), (2, 2), (4, 4)])
def test_equals_the_slow_loop_of_its_docstring(loss, slow, num_rows, num_features):
    a, b = pair(num_rows, num_features)
    expected = slow(loss, a, b)
    assert list(loss(a, b)) == list(expected)
    for name, value in loss(a, b).items():
        assert value.shape == ()
        assert value.item() == pytest.approx(expected[name], rel=1e-10), name


def test_defaults_are_the_published_values():
    assert BarlowTwins() == BarlowTwins(lambd=0.0051, scale=1)
    assert VICReg() == VICReg(invariance=25, variance=25, covariance=1, eps=1e-4)
    assert NPairs() == NPairs(temperature=0.07, symmetric=True)


def test_gradients_match_finite_differences(loss):
    a, b = (z.requires_grad_() for z in pair(5, 4))
    torch.autograd.gradcheck(lambda a, b: tuple(loss(a, b).values()), (a, b))
    torch.autograd.gradgradcheck(lambda a, b: total(loss(a, b)), (a, b))


def test_rows_permuted_together_change_nothing_and_apart_change_it(loss):
    a, b = pair(6, 8)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b))
    assert not math.isclose(total(loss(a[order], b)).item(), total(loss(a, b)).item(), rel_tol=1e-3)


def test_sum_is_unchanged_when_the_views_swap(loss):
    a, b = pair(6, 4)
    if loss == NPairs(1.0, symmetric=False):
        assert not torch.isclose(total(loss(a, b)), total(loss(b, a)), rtol=1e-4)
    else:
        torch.testing.assert_close(total(loss(a, b)), total(loss(b, a)))


def test_calls_do_not_change_inputs_or_state(loss):
    a, b = pair(5, 4)
    before = a.clone(), b.clone(), dict(vars(loss))
    first, second = loss(a, b), loss(a, b)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])
    assert vars(loss) == before[2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(loss, dataclasses.fields(loss)[0].name, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_promoted_before_any_maths(loss, dtype):
    a, b = (z.requires_grad_() for z in pair(16, 12, dtype))
    terms = loss(a, b)
    torch.testing.assert_close(terms, loss(a.detach().float(), b.detach().float()), rtol=0, atol=0)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    total(terms).backward()
    assert a.grad.dtype == b.grad.dtype == dtype
    assert a.grad.isfinite().all()


def test_float64_stays_and_float32_agrees_with_it(loss):
    a, b = pair(32, 24)
    exact, single = loss(a, b), loss(a.float(), b.float())
    assert {value.dtype for value in exact.values()} == {torch.float64}
    for name in exact:
        assert single[name].item() == pytest.approx(exact[name].item(), rel=2e-5)


@pytest.mark.parametrize("by_name", [False, True])
def test_autocast_around_it_changes_no_bit(loss, by_name):
    a, b = pair(32, 24, torch.float32)
    outside = loss(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ b.T).dtype == torch.bfloat16  # a matrix product here does lose precision
        inside = loss(a=a, b=b) if by_name else loss(a, b)
        assert (a @ b.T).dtype == torch.bfloat16  # and the region goes on
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_large_values_do_not_overflow(loss):
    random = torch.Generator().manual_seed(1)
    largest = torch.finfo(torch.float16).max
    a, b = (
        ((torch.rand(64, 32, generator=random) * 2 - 1) * largest).to(torch.float16).requires_grad_() for _ in range(2)
    )
    value = total(loss(a, b))
    assert value.isfinite()
    if not isinstance(loss, VICReg):  # its gradient grows with the cube of the values and does not fit float16
        value.backward()
        assert a.grad.isfinite().all()


def test_collapsed_and_zero_embeddings_have_finite_gradients(loss):
    for rows in (torch.zeros(6, 4), torch.randn(4, generator=torch.Generator().manual_seed(0)).expand(6, 4)):
        a, b = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        total(loss(a, b)).backward()
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_non_finite_value_shows_in_the_loss(loss, bad):
    a, b = pair(6, 4, torch.float32)
    a[2, 1] = bad
    assert not total(loss(a, b)).isfinite()


@pytest.mark.parametrize(
    ("shape_a", "shape_b"), [((4, 3), (4, 2)), ((4, 3), (5, 3)), ((4,), (4,)), ((2, 4, 3), (2, 4, 3)), ((1, 3), (1, 3))]
)
def test_wrong_shapes_are_named(loss, shape_a, shape_b):
    with pytest.raises(ValueError) as caught:
        loss(torch.ones(shape_a), torch.ones(shape_b))
    assert str(shape_a) in str(caught.value)
    assert str(shape_b) in str(caught.value)


def test_wrong_types_are_named(loss):
    with pytest.raises(ValueError, match=r"torch\.float32 and torch\.float64"):
        loss(torch.rand(4, 3), torch.rand(4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        loss(torch.ones(4, 3, dtype=torch.int64), torch.ones(4, 3, dtype=torch.int64))


def test_missing_argument_is_named_by_python(loss):
    with pytest.raises(TypeError, match="'b'"):
        loss(torch.rand(4, 3))
