"""The two forms of a product's diagonal and rest: the plain form, finite differences, digits in float32, no waiting."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from losses import BarlowTwins, SampleCorrelation, VICReg, products
from losses.matrices import EPS, cross_correlation, sample_correlation, split_diagonal
from losses.products import EDGE, dot, inner, symmetric
from losses.split import GRAM_BELOW, Form, _Split, plain_split, split

N, D = 7, 5
FORMS = [Form(of, eps, gram=gram) for of in ("features", "samples") for eps in (EPS, None) for gram in (True, False)]


def views(num_rows=N, num_features=D, dtype=torch.float64, mean=0.3):
    random = torch.Generator().manual_seed(2)
    a, noise = torch.randn(2, num_rows, num_features, dtype=torch.float64, generator=random)
    weights = torch.linspace(0.5, 1.5, num_features, dtype=torch.float64)
    return tuple((z * weights + mean).to(dtype).requires_grad_() for z in (a, a + 0.7 * noise))


def weighed(found):
    """Returns a sum in which every number has a weight of its own."""
    diagonal, rest = found
    return (diagonal * torch.linspace(-1, 2, len(diagonal), dtype=rest.dtype)).sum() + 0.6 * rest


def gradients(function, inputs, form, **options):
    return torch.autograd.grad(weighed(function(*inputs, form)), [z for z in inputs if z is not None], **options)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.of}-{form.eps}-{form.gram}")
def test_both_forms_equal_the_plain_one_and_go_back_twice(form):
    a, b = views()
    for inputs in ((a, b), (a, None)):
        torch.testing.assert_close(_Split.apply(*inputs, form), plain_split(*inputs, form), rtol=1e-12, atol=1e-13)
        expected = gradients(plain_split, inputs, form)
        torch.testing.assert_close(gradients(_Split.apply, inputs, form), expected, rtol=1e-11, atol=1e-12)
        value = weighed(_Split.apply(*inputs, form))
        for _ in range(2):
            found = torch.autograd.grad(value, [z for z in inputs if z is not None], retain_graph=True)
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def apply(more, *z):
    return _Split.apply(*z, *more)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.of}-{form.eps}-{form.gram}")
def test_gradients_match_finite_differences_once_and_twice(form):
    a, b = views(4, 3)
    for inputs, more in (((a, b), (form,)), ((a,), (None, form))):
        torch.autograd.gradcheck(partial(apply, more), inputs)
        torch.autograd.gradgradcheck(lambda *z, more=more: weighed(apply(more, *z)), inputs)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.of}-{form.eps}-{form.gram}")
def test_gradients_do_not_depend_on_which_are_wanted(form):
    expected = gradients(_Split.apply, views(), form)
    for wanted in (0, 1):
        inputs = [z.detach().requires_grad_(which == wanted) for which, z in enumerate(views())]
        found = torch.autograd.grad(weighed(_Split.apply(*inputs, form)), inputs[wanted])[0]
        torch.testing.assert_close(found, expected[wanted], rtol=0, atol=0)


def test_standardised_products_are_the_correlations():
    a, b = views()
    for of, matrix in (("features", cross_correlation(a, b)), ("samples", sample_correlation(a, b))):
        diagonal, rest = split_diagonal(matrix)
        torch.testing.assert_close(split(a, b, Form(of, EPS)), (diagonal, rest.square().sum()))


def test_the_gram_form_is_taken_where_its_matrices_are_smaller():
    for rows, features in itertools.product((2, 15, 16, 30, 74, 75, 100), repeat=2):
        z = torch.empty(rows, features)
        assert Form("features").chosen(z).gram == (rows < GRAM_BELOW * features)
        assert Form("samples").chosen(z).gram == (features < GRAM_BELOW * rows)


@pytest.mark.parametrize("mean", [0.3, 5.0])
@pytest.mark.parametrize(("num_rows", "num_features"), [(64, 512), (192, 256), (256, 64)])
@pytest.mark.parametrize("loss", [BarlowTwins(), VICReg(), SampleCorrelation()], ids=lambda loss: type(loss).__name__)
def test_float32_gradients_are_within_2e_6_of_float64(loss, num_rows, num_features, mean):
    single = views(num_rows, num_features, torch.float32, mean)
    exact = [z.detach().double().requires_grad_() for z in single]
    want, found = (torch.cat(torch.autograd.grad(sum(loss(*z).values()), z)) for z in (exact, single))
    assert (found.double() - want).norm() < 2e-6 * want.norm()
    for name, value in loss(*exact).items():
        assert loss(*single)[name].item() == pytest.approx(value.item(), rel=2e-6)


def optimum(num_rows, num_features, random):
    """Returns features (N, D) of variance 1 / N whose correlations are as near to the identity as their rank allows."""
    z = torch.randn(num_rows, num_features, dtype=torch.float64, generator=random)
    for _ in range(300):
        z = z - z.mean(0)
        left, _, right = torch.linalg.svd(z, full_matrices=False)
        z = F.normalize(left[:, : num_rows - 1] @ right[: num_rows - 1], dim=0)
    return z


def test_the_gram_form_keeps_its_digits_at_the_optimum():
    """The rank is at most N - 1, so the rest cannot be under D (D / (N - 1) - 1): the difference loses two bits."""
    rows, features = 47, 64
    a = optimum(rows, features, torch.Generator().manual_seed(0))
    form = Form("features", EPS).chosen(a)
    assert form.gram
    _, exact = plain_split(a, a, form)
    assert exact.item() == pytest.approx(features * (features / (rows - 1) - 1), rel=0.02)
    assert split(a.float(), a.float(), form)[1].item() == pytest.approx(exact.item(), rel=2e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
def test_the_rest_is_not_negative_where_only_a_few_features_live(noise):
    """Uncorrelated features, as many as rows allow, among dead ones: here the rest can be nothing, and cancels."""
    rows, features = 33, 128
    random = torch.Generator().manual_seed(1)
    z = torch.randn(rows, rows - 1, dtype=torch.float64, generator=random)
    alive = torch.linalg.qr(z - z.mean(0))[0] * rows**0.5
    a = torch.cat([alive, torch.zeros(rows, features - rows + 1, dtype=torch.float64)], 1)
    b = (a + noise * torch.randn(a.shape, dtype=torch.float64, generator=random)).float()
    a = a.float()
    assert Form("features", EPS).chosen(a).gram
    exact = split(a.double(), b.double(), Form("features", EPS))[1].item()
    found = split(a, b, Form("features", EPS))[1].item()
    assert found >= 0
    assert found == pytest.approx(exact, abs=2e-7 * rows)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("loss", [BarlowTwins(), VICReg(), SampleCorrelation()], ids=lambda loss: type(loss).__name__)
def test_backward_inside_autocast_changes_no_bit(loss, create_graph):
    for size in ((12, 32), (32, 12)):
        a, b = views(*size, torch.float32)
        outside = torch.autograd.grad(sum(loss(a, b).values()), (a, b), create_graph=create_graph)
        with torch.autocast("cpu", torch.bfloat16):
            inside = torch.autograd.grad(sum(loss(a, b).values()), (a, b), create_graph=create_graph)
        torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [BarlowTwins(), VICReg(), SampleCorrelation()], ids=lambda loss: type(loss).__name__)
def test_nothing_reads_a_value_on_the_host(loss):
    """On tensors without values, reading one (which waits for a GPU) raises."""
    with FakeTensorMode():
        for size in ((300, 600), (600, 300)):
            a, b = (torch.empty(size, requires_grad=True) for _ in range(2))
            sum(loss(a, b).values()).backward()
            assert a.grad.shape == b.grad.shape == size


@pytest.mark.parametrize("num_rows", [1, EDGE - 1, EDGE, 2 * EDGE + 3])
def test_products_by_parts_equal_the_whole(num_rows, monkeypatch):
    monkeypatch.setattr(products, "PART", 9 * 200)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, num_rows, 9, dtype=torch.float64, generator=random)
    torch.testing.assert_close(symmetric(x), x @ x.T)
    torch.testing.assert_close(symmetric(x.T), x.T @ x)
    for dim in (0, 1):
        torch.testing.assert_close(dot(x, y, dim), (x * y).sum(dim))
    torch.testing.assert_close(inner(x, y), (x * y).sum())
    torch.testing.assert_close(inner(x, x), x.square().sum())
