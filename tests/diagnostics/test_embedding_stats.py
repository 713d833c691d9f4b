import math

import pytest
import torch
from torch import Tensor

from diagnostics.embedding_stats import (
    alignment,
    embedding_statistics,
    feature_std,
    matrix_statistics,
    rankme,
    uniformity,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rankme_of_equal_singular_values_is_their_number() -> None:
    orthonormal = torch.linalg.qr(normal(40, 7)).Q
    assert rankme(orthonormal) == pytest.approx(7, rel=1e-4)
    assert rankme(100 * orthonormal.T) == pytest.approx(7, rel=1e-4)


def test_rankme_by_hand() -> None:
    # singular values 3 and 1: p = 3/4, 1/4; exp(-3/4 log 3/4 - 1/4 log 1/4) = 4 / 3^(3/4)
    assert rankme(torch.tensor([[3.0, 0.0], [0.0, -1.0]])) == pytest.approx(4 / 3**0.75, rel=1e-5)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30)])
def test_rankme_is_the_papers_formula_over_singular_values(shape: tuple[int, int]) -> None:
    z = normal(*shape) * torch.logspace(0, -4, shape[1], dtype=torch.float64)
    s = torch.linalg.svdvals(z)
    p = s / s.sum() + 1e-7
    assert rankme(z) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)


def test_rankme_of_a_line_a_point_and_nothing_is_one() -> None:
    line = normal(50, 1) @ normal(1, 20)
    for z in (line, torch.ones(50, 20), torch.zeros(50, 20)):
        assert rankme(z) == pytest.approx(1, abs=1e-2)


def test_rankme_of_what_is_not_finite_is_nan() -> None:
    assert math.isnan(rankme(torch.tensor([[1.0, math.inf], [0.0, 1.0]])))


def test_feature_std_is_one_on_an_even_sphere_and_zero_on_a_point() -> None:
    cross = torch.cat([torch.eye(8), -torch.eye(8)])
    assert feature_std(5 * cross) == pytest.approx((1, 1))
    assert feature_std(torch.ones(16, 8) + 1e-9 * normal(16, 8)) == pytest.approx((0, 0), abs=1e-6)
    assert feature_std(normal(4000, 64))[0] == pytest.approx(1, abs=0.02)


def test_feature_std_finds_a_dead_feature() -> None:
    z = normal(100, 10)
    z[:, 3] = 0
    mean, lowest = feature_std(z)
    assert lowest == 0
    assert mean > 0.8


@pytest.mark.parametrize("shift", [0.0, 0.3, 3.0, 30.0])
def test_the_square_of_feature_std_is_bounded_by_the_mean_cosine(shift: float) -> None:
    z = normal(60, 40) + shift
    rows = z / z.norm(dim=1, keepdim=True)
    assert feature_std(z)[0] ** 2 <= 1 - float((rows @ rows.T).mean()) + 1e-12


def test_alignment_of_equal_unrelated_and_opposite_views() -> None:
    eye = torch.eye(4)
    assert alignment(eye, 7 * eye) == pytest.approx(0)
    assert alignment(eye, eye.roll(1, dims=0)) == pytest.approx(2)
    assert alignment(eye, -eye) == pytest.approx(4)


def test_uniformity_of_a_point_and_of_orthogonal_rows() -> None:
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0, abs=1e-9)
    assert uniformity(9 * torch.eye(6)) == pytest.approx(-4)


def test_uniformity_is_the_slow_loop_over_pairs() -> None:
    z = normal(9, 5)
    rows = [row / row.norm() for row in z]
    values = [math.exp(-2 * float((rows[i] - rows[j]).square().sum())) for i in range(9) for j in range(i)]
    assert uniformity(z) == pytest.approx(math.log(sum(values) / len(values)), rel=1e-9)


def test_matrix_statistics_by_hand() -> None:
    m = torch.tensor([[0.5, -0.9, 0.1], [0.2, 0.1, 0.3], [0.0, 0.0, 0.6]])
    found = matrix_statistics(m)
    assert found == pytest.approx({"diagonal": 0.4, "off_diagonal": 1.5 / 6, "off_diagonal_max": 0.9, "top1": 2 / 3})
    assert m[0, 0] == 0.5, "the matrix was changed"


def test_top1_counts_images_whose_other_view_is_nearest() -> None:
    a = normal(50, 32)
    b = a + 0.1 * normal(50, 32, seed=1)
    b[[3, 4, 5]] = b[[4, 5, 3]]
    found = embedding_statistics(a, b)
    assert found["top1"] == pytest.approx(47 / 50)


def test_one_view_numbers_are_the_mean_of_both_and_the_smallest_of_both() -> None:
    a, b = normal(30, 8), normal(30, 8, seed=1) * torch.logspace(0, -2, 8, dtype=torch.float64)
    found = embedding_statistics(a, b)
    assert found["rankme"] == pytest.approx((rankme(a) + rankme(b)) / 2)
    assert found["feature_std"] == pytest.approx((feature_std(a)[0] + feature_std(b)[0]) / 2)
    assert found["feature_std_min"] == min(feature_std(a)[1], feature_std(b)[1])
    assert found["uniformity"] == pytest.approx((uniformity(a) + uniformity(b)) / 2)
    assert found["feature_std_min"] < found["feature_std"]


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((1, 3), (1, 3)), ((4,), (4,))])
def test_unequal_or_single_rows_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        embedding_statistics(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
