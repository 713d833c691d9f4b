"""The matrices: shapes, ranges, equality with plain formulas, and float32 sums that keep their digits."""

import pytest
import torch
import torch.nn.functional as F

from losses import cosine_similarity, cross_correlation, off_diagonal, sample_correlation
from losses.matrices import split_diagonal, sum_of_squares


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def test_shapes_with_unequal_rows_and_features(random):
    a, b = (torch.randn(7, 4, generator=random) for _ in range(2))
    assert cosine_similarity(a, b[:5]).shape == (7, 5)
    assert cross_correlation(a, b).shape == (4, 4)
    assert sample_correlation(a, b).shape == (7, 7)


def test_cosine_similarity_by_hand():
    a = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 2.0], [-5.0, 0.0]])
    half = 0.5**0.5
    torch.testing.assert_close(cosine_similarity(a, b), torch.tensor([[half, -1.0], [1.0, -half], [0.0, 0.0]]))


def test_correlations_equal_torchs_coefficients(random):
    a, b = (torch.randn(9, 5, dtype=torch.float64, generator=random) for _ in range(2))
    features = torch.corrcoef(torch.cat([a.T, b.T]))[:5, 5:]
    torch.testing.assert_close(cross_correlation(a, b, eps=1e-15), features)
    torch.testing.assert_close(sample_correlation(a.T, b.T, eps=1e-15), features)
    torch.testing.assert_close(sample_correlation(a.T, b.T, divisor="samples", eps=1e-15), features * 9 / 5)


def test_cross_correlation_has_batch_norms_eps(random):
    """Features so small that the eps in the root decides the value."""
    a, b = (3e-3 * torch.randn(16, 6, dtype=torch.float64, generator=random) for _ in range(2))
    norm = torch.nn.BatchNorm1d(6, affine=False, dtype=torch.float64)
    torch.testing.assert_close(cross_correlation(a, b), norm(a).T @ norm(b) / 16)
    assert not torch.allclose(cross_correlation(a, b), cross_correlation(a, b, eps=1e-15), rtol=0.1)


def test_equal_inputs_have_diagonal_one(random):
    a = torch.randn(12, 9, generator=random)
    for matrix in (cosine_similarity(a, a), cross_correlation(a, a), sample_correlation(a, a)):
        torch.testing.assert_close(matrix.diagonal(), torch.ones(len(matrix)), rtol=1e-4, atol=0)
        assert matrix.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("function", [cosine_similarity, cross_correlation, sample_correlation])
def test_half_precision_and_autocast_give_float32(function, random):
    a, b = (torch.randn(8, 6, generator=random, dtype=torch.float32) for _ in range(2))
    outside = function(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(a, b), outside)
    promoted = function(a.bfloat16(), b.bfloat16())
    assert torch.equal(promoted, function(a.bfloat16().float(), b.bfloat16().float()))
    assert promoted.dtype == torch.float32


@pytest.mark.parametrize("function", [cosine_similarity, cross_correlation, sample_correlation])
def test_unequal_shapes_are_named(function):
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        function(torch.ones(4, 3), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"\(4,\) and \(4,\)"):
        function(torch.ones(4), torch.ones(4))


def test_unequal_numbers_of_rows_are_refused_where_rows_are_pairs():
    for function in (cross_correlation, sample_correlation):
        with pytest.raises(ValueError, match=r"\(4, 3\) and \(5, 3\)"):
            function(torch.ones(4, 3), torch.ones(5, 3))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_off_diagonal_holds_all_but_the_diagonal_without_a_copy(size):
    matrix = torch.arange(size * size).view(size, size)
    rest = off_diagonal(matrix)
    expected = [matrix[i, j].item() for i in range(size) for j in range(size) if i != j]
    assert rest.flatten().tolist() == expected
    assert rest.untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
    assert off_diagonal(matrix.T).flatten().tolist() == off_diagonal(matrix.T.contiguous()).flatten().tolist()


def test_off_diagonal_of_an_oblong_matrix_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        off_diagonal(torch.ones(2, 3))


def test_split_diagonal_overwrites_the_diagonal_only():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    diagonal, rest = split_diagonal(matrix)
    assert diagonal.tolist() == [1, 4]
    assert rest.tolist() == [[0, 2], [3, 0]]
    assert rest is matrix


def test_sum_of_squares_of_many_values_keeps_its_digits(random):
    matrix = torch.rand(4096, 4096, generator=random)
    exact = sum(row.double().square().sum().item() for row in matrix.split(256))
    assert sum_of_squares(matrix).item() == pytest.approx(exact, rel=1e-6)


def test_redundancy_near_the_optimum_keeps_its_digits(random):
    """Off-diagonal elements around 1e-5: in float32 "all squares minus the diagonal's" has lost them altogether."""
    basis = torch.linalg.qr(F.pad(torch.randn(512, 64, dtype=torch.float64, generator=random), (1, 0), value=1.0))[0]
    matrix = basis[:, 1:].T @ basis[:, 1:] + 1e-5 * torch.randn(64, 64, dtype=torch.float64, generator=random)
    exact = off_diagonal(matrix).square().sum().item()
    single = matrix.float()
    difference = (single.square().sum() - single.diagonal().square().sum()).item()
    assert difference != pytest.approx(exact, rel=0.5)
    assert sum_of_squares(split_diagonal(single)[1]).item() == pytest.approx(exact, rel=1e-5)
