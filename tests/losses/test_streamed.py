"""The streamed losses against their plain forms: tiles that do not divide N, precision, which gradients are wanted."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from losses import NPairs, NTXent, SigLIP, streamed, tiling
from losses.inputs import group_numbers

N, D = 23, 7


@pytest.fixture(params=[(3, False), (11, False), (11, True), (23, False), (23, True)], ids=str)
def tiled(request, monkeypatch):
    """Tiles of 3, 11 or 23 rows and columns, whose logits are made anew or kept for the backward pass."""
    edge, kept = request.param
    monkeypatch.setattr(tiling, "tile_edge", lambda num_rows, device: min(num_rows, edge))
    monkeypatch.setattr(tiling, "KEPT", N * N if kept else 0)


def inputs(dtype=torch.float64, scale=14.0, num_rows=N, num_features=D):
    """Returns a, b, scale and bias that want gradients, and group numbers of groups of 1, 2, 3 and 5 rows, apart."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, num_rows, num_features, dtype=torch.float64, generator=random)
    groups = torch.arange(num_rows)
    groups[[1, 9]] = 40
    groups[[0, 7, num_rows - 1]] = -(2**62)
    groups[[2, 3, 10, 11, 12]] = 2**62
    numbers = a, a + 0.5 * b, torch.tensor(scale, dtype=torch.float64), torch.tensor(-scale / 2, dtype=torch.float64)
    return *(x.to(dtype).requires_grad_() for x in numbers), group_numbers(groups, a.to(dtype))


def softmax(a, b, scale, bias, number):
    return streamed.cross_entropies(a, b, scale, number, True)


def of_both(a, b, scale, bias, number):
    return streamed.cross_entropies_of_both(a, b, scale)


def plain_of_both(a, b, scale, bias, number):
    return streamed.plain_cross_entropies_of_both(a, b, scale)


def plain_softmax(a, b, scale, bias, number):
    return streamed.plain_cross_entropies(a, b, scale, number, True)


FORMS = {
    "rows-and-columns": (softmax, plain_softmax),
    "rows": (lambda *x: softmax(*x)[:1], lambda *x: plain_softmax(*x)[:1]),
    "only-rows": (
        lambda a, b, scale, bias, number: streamed.cross_entropies(a, b, scale, number, False),
        lambda a, b, scale, bias, number: streamed.plain_cross_entropies(a, b, scale, number, False),
    ),
    "of-both": (of_both, plain_of_both),
    "sigmoid": (streamed.pair_losses, streamed.plain_pair_losses),
}


def weighed(terms):
    """Returns a sum to which the terms come with different weights, one negative."""
    return sum(weight * term for weight, term in zip((1.7, -0.6), terms))


def gradients(form, x, wanted):
    return torch.autograd.grad(weighed(form(*x)), wanted, allow_unused=True)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("scale", [1.0, 14.0, 100.0])
@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_equal_the_plain_form(name, scale):
    x = inputs(scale=scale)
    form, plain = FORMS[name]
    torch.testing.assert_close(form(*x), plain(*x), rtol=1e-13, atol=1e-14)
    wanted = x[:4] if name == "sigmoid" else x[:3]
    torch.testing.assert_close(gradients(form, x, wanted), gradients(plain, x, wanted), rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("name", ["rows-and-columns", "of-both", "sigmoid"])
def test_rows_of_any_length_equal_the_plain_form(name):
    a, b, scale, bias, number = inputs()
    lengths = torch.logspace(-9, 9, N, dtype=a.dtype)[:, None]
    x = ((a.detach() * lengths).requires_grad_(), (b.detach() / lengths).requires_grad_(), scale, bias, number)
    form, plain = FORMS[name]
    torch.testing.assert_close(form(*x), plain(*x), rtol=1e-13, atol=1e-14)
    found, expected = (
        [g * size for g, size in zip(gradients(f, x, x[:2]), (lengths, 1 / lengths))] for f in (form, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("name", ["rows-and-columns", "of-both", "sigmoid"])
def test_gradients_do_not_depend_on_which_are_wanted(name):
    whole = inputs()
    form, _ = FORMS[name]
    possible = range(4) if name == "sigmoid" else range(3)
    expected = gradients(form, whole, whole[:4])
    for wanted in itertools.chain.from_iterable(itertools.combinations(possible, k) for k in (1, 2, 3)):
        x = [value.detach().requires_grad_(index in wanted) for index, value in enumerate(whole[:4])]
        found = gradients(form, (*x, whole[4]), [x[index] for index in wanted])
        torch.testing.assert_close(found, tuple(expected[index] for index in wanted), rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("name", FORMS)
def test_gradients_match_finite_differences_once_and_twice(name):
    x = inputs(scale=4.0, num_rows=13, num_features=3)
    form, _ = FORMS[name]
    wanted = x[:4] if name == "sigmoid" else x[:3]
    torch.autograd.gradcheck(lambda *y: form(*y, *x[len(y) :]), wanted)
    torch.autograd.gradgradcheck(lambda *y: weighed(form(*y, *x[len(y) :])), wanted)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("scale", [14.0, 100.0])
@pytest.mark.parametrize("name", ["rows-and-columns", "of-both", "sigmoid"])
def test_float32_is_as_near_to_float64_as_the_plain_form(name, scale):
    form, plain = FORMS[name]
    exact, single = inputs(scale=scale), inputs(torch.float32, scale)
    want = torch.cat([g.flatten() for g in gradients(form, exact, exact[:3])])
    errors = []
    for candidate in (form, plain):
        found = torch.cat([g.flatten().double() for g in gradients(candidate, single, single[:3])])
        errors.append(((found - want).norm() / want.norm()).item())
        for value, right in zip(candidate(*single), form(*exact)):
            assert value.item() == pytest.approx(right.item(), rel=2e-6 if scale < 50 else 1e-5)
    assert errors[0] < max(2e-6, 2 * errors[1]) < 2e-5


@pytest.mark.usefixtures("tiled")
def test_a_column_far_from_every_row_does_not_underflow():
    """Each row has its partner at cosine 1, and the last column is opposite to all: e^-200 beside the rows' highest."""
    a = torch.eye(4)[[0, 0, 0, 0]] + 1e-2 * torch.eye(4)
    b = torch.cat([a[:3], -a[3:]])
    number = torch.arange(4.0)
    x = (a, b, torch.tensor(100.0), torch.tensor(0.0), number)
    exact = plain_softmax(*(value.double() for value in x))
    for value, right in zip(softmax(*x), exact):
        assert value.item() == pytest.approx(right.item(), rel=1e-5)


@pytest.mark.usefixtures("tiled")
def test_a_loss_that_is_almost_solved_keeps_its_digits_in_float32():
    """Partners have logit 100, others 87: a loss of 5e-5, where float32 near 100 has steps of 8e-6."""
    a = torch.cat([torch.full((N, 1), 0.87**0.5), 0.13**0.5 * torch.eye(N)], dim=1).double()
    x = (a, a, torch.tensor(100.0, dtype=torch.float64), None, torch.arange(N, dtype=torch.float64))
    single = (value if value is None else value.float() for value in x)
    for value, right in zip(softmax(*single), plain_softmax(*x)):
        assert value.item() == pytest.approx(right.item(), rel=0.005)
        assert right < 1e-4


@pytest.mark.parametrize("name", ["rows-and-columns", "of-both", "sigmoid"])
@pytest.mark.usefixtures("tiled")
def test_the_same_graph_goes_back_twice_and_no_graph_is_made_without_need(name):
    x = inputs()
    form, _ = FORMS[name]
    value = weighed(form(*x))
    first = torch.autograd.grad(value, x[:3], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, x[:3]), first, rtol=0, atol=0)
    with torch.no_grad():
        assert not any(term.requires_grad for term in form(*x))
        torch.testing.assert_close(form(*x), tuple(term.detach() for term in form(*x)), rtol=0, atol=0)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("loss", [NPairs(), NTXent(), SigLIP()], ids=str)
def test_backward_inside_autocast_changes_no_bit(loss, create_graph):
    a, b, *_ = inputs(torch.float32)
    outside = torch.autograd.grad(sum(loss(a, b).values()), (a, b), create_graph=create_graph)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(sum(loss(a, b).values()), (a, b), create_graph=create_graph)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [NPairs(), SigLIP()], ids=str)
def test_nothing_reads_a_value_on_the_host(loss):
    """On tensors without values, reading one (which waits for a GPU) or a shape that depends on one raises."""
    with FakeTensorMode():
        a, b = (torch.empty(600, 16, requires_grad=True) for _ in range(2))
        scale = torch.empty((), requires_grad=True)
        groups = torch.empty(600, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            groups[0].item()
        sum(loss(a, b, scale, groups=groups).values()).backward()
        assert a.grad.shape == b.grad.shape == (600, 16)
        assert scale.grad.shape == ()


def test_nothing_reads_a_value_on_the_host_of_both_views():
    with FakeTensorMode():
        for num_rows in (600, 2000):
            a, b = (torch.empty(num_rows, 16, requires_grad=True) for _ in range(2))
            sum(NTXent()(a, b).values()).backward()
            assert a.grad.shape == b.grad.shape == (num_rows, 16)


@pytest.mark.parametrize("edge", [1, 3, 4, 7])
def test_symmetric_tiles_hold_each_pair_once_and_know_the_partners(monkeypatch, edge):
    monkeypatch.setattr(tiling, "tile_edge", lambda num_rows, device: edge)
    z = tiling.Units.of(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    seen, partners = torch.zeros(8, 8), torch.zeros(8, 8)
    for tile in tiling.tiles(z, z, torch.tensor(2.0), None, symmetric=True):
        seen[tile.rows, tile.columns] += 1
        if tile.rows != tile.columns:
            seen[tile.columns, tile.rows] += 1
        for rows, values in tile.partners(4, partners[tile.rows, tile.columns]):
            values += torch.arange(rows.start, rows.stop) + 1.0
    assert seen.eq(1).all()
    right = partners.triu()
    assert torch.equal(right, torch.diag_embed(torch.arange(1.0, 5.0), offset=4))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("edge", [1, 3, 4, 7])
def test_every_pair_is_in_one_tile(monkeypatch, edge, keep):
    monkeypatch.setattr(tiling, "tile_edge", lambda num_rows, device: edge)
    random = torch.Generator().manual_seed(0)
    a, b = (tiling.Units.of(z) for z in torch.randn(2, 7, 3, generator=random))
    seen = torch.zeros(7, 7)
    logits = torch.full((7, 7), torch.nan)
    kept = torch.full((7, 7), torch.nan) if keep else None
    for tile in tiling.tiles(a, b, torch.tensor(2.0), kept):
        seen[tile.rows, tile.columns] += 1
        logits[tile.rows, tile.columns] = tile.logits
        assert tile.logits.shape == tile.buffer.shape == tile.other.shape
        assert len({x.data_ptr() for x in (tile.logits, tile.buffer, tile.other)}) == 3
    assert seen.eq(1).all()
    torch.testing.assert_close(logits, 2 * a.rows @ b.rows.T)
    if kept is not None:
        assert torch.equal(kept, logits)
        again = list(tiling.tiles(a, b, torch.tensor(torch.nan), kept, filled=True))
        assert all(torch.equal(tile.logits, logits[tile.rows, tile.columns]) for tile in again)


def test_tiles_are_small_and_even():
    for device, edge in (("cpu", 1024), ("cuda", 2048)):
        for num_rows in (2, 100, edge - 1, edge, edge + 1, 8 * edge, 100_000):
            found = tiling.tile_edge(num_rows, torch.device(device))
            assert min(num_rows, edge) / 2 < found <= edge
            assert -(-num_rows // found) == -(-num_rows // edge)
    assert tiling.room(torch.empty(2896, 1)).shape == (2896, 2896)
    assert tiling.room(torch.empty(2897, 1)) is None


def test_group_numbers_are_equal_where_groups_are():
    like = torch.zeros(7, 2)
    found = group_numbers(torch.tensor([5, -(2**62), 5, 2**62, 2**62 + 1, -(2**62), 5]), like)
    assert found.dtype == like.dtype
    assert found.tolist() == [1, 0, 1, 2, 3, 0, 1]
    assert group_numbers(None, like).tolist() == list(range(7))
