"""Statistics of features against cases by hand, the papers' formulas written out, and what must not change them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnostics.embedding_stats import alignment, rankme
from diagnostics.feature_stats import alpha_req, feature_statistics, lidar, view_alignment, view_statistics


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(num: int, eigenvalues: Tensor) -> Tensor:
    """Features (num, D) whose covariance has exactly these eigenvalues, about a mean that is not 0."""
    width = len(eigenvalues)
    centred = torch.linalg.qr(torch.cat([torch.ones(num, 1, dtype=torch.float64), normal(num, width)], dim=1)).Q[:, 1:]
    turned = torch.linalg.qr(normal(width, width, seed=1)).Q
    return centred * (num * eigenvalues).sqrt() @ turned + 3


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
@pytest.mark.parametrize(("num", "width"), [(300, 150), (130, 120), (121, 400)])
def test_alpha_req_of_a_power_law_is_its_exponent(alpha: float, num: int, width: int) -> None:
    spectrum = torch.arange(1, min(width, num - 1) + 1, dtype=torch.float64) ** -alpha
    z = with_spectrum(num, spectrum)
    if width > len(spectrum):
        z = torch.cat([z, torch.ones(num, width - len(spectrum), dtype=torch.float64)], dim=1)
    assert alpha_req(7 * z) == (pytest.approx(alpha, rel=1e-6), 100)


def test_alpha_req_is_the_weighted_line_of_the_authors_code() -> None:
    spectrum = torch.linspace(1, 0.01, 150, dtype=torch.float64)  # no power law
    ranks = np.arange(4, 101)
    slope = np.polyfit(np.log(ranks), np.log(spectrum.numpy()[3:100]), 1, w=np.sqrt(1 / ranks))[0]
    assert alpha_req(with_spectrum(200, spectrum))[0] == pytest.approx(-slope, rel=1e-6)


def test_alpha_req_by_hand_with_two_eigenvalues_in_its_range() -> None:
    # ranks 4 and 5 with eigenvalues 8 and 2: log(8 / 2) / log(5 / 4)
    z = with_spectrum(40, torch.tensor([11.0, 10, 9, 8, 2], dtype=torch.float64))
    assert alpha_req(z) == (pytest.approx(math.log(4) / math.log(1.25)), 5)


def test_alpha_req_of_too_few_directions_is_nan() -> None:
    four = with_spectrum(40, torch.tensor([4.0, 3, 2, 1], dtype=torch.float64))
    assert math.isnan(alpha_req(four)[0])
    assert math.isnan(alpha_req(torch.ones(40, 20))[0])


def views(means: Tensor, within: Tensor) -> Tensor:
    """(n, 2q, D): views at the images' means plus and minus each row of `within` (q, D)."""
    return means[:, None] + torch.cat([within, -within])[None]


def test_lidar_by_hand() -> None:
    # Sigma_b = diag(16, 1), Sigma_w = diag(4, 1): lambda = 4, 1 (delta is 1e-4 of 11), so p = 4/5, 1/5
    means = torch.tensor([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]], dtype=torch.float64)
    within = torch.tensor([[2.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    expected = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert lidar(views(means, within)) == pytest.approx(expected, rel=1e-3)


def test_lidar_counts_directions_by_what_views_leave_of_them() -> None:
    # all directions are equally wide between images; in half of them the views of one image are a hundred times as wide
    means = torch.linalg.qr(normal(400, 20)).Q * 20
    wide = torch.tensor([1.0] * 10 + [100.0] * 10, dtype=torch.float64)
    # (the mean over views is exactly the image's mean, since each view has its mirror image)
    assert lidar(views(means, torch.eye(20, dtype=torch.float64))) == pytest.approx(20, rel=0.01)
    assert lidar(views(means, torch.eye(20, dtype=torch.float64) * wide)) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("shape", [(30, 4, 12), (8, 5, 12)])
def test_lidar_is_the_papers_formula(shape: tuple[int, int, int]) -> None:
    z = normal(*shape) + 2 * normal(shape[0], 1, shape[2], seed=1) * torch.linspace(0.1, 2, shape[2])
    n, q, width = shape
    between, within = torch.zeros(width, width, dtype=z.dtype), torch.zeros(width, width, dtype=z.dtype)
    centre = z.mean(dim=(0, 1))
    for image in z:
        mean = image.mean(dim=0)
        between += torch.outer(mean - centre, mean - centre) / n
        for view in image:
            within += torch.outer(view - mean, view - mean) / (n * q)
    within += 1e-4 * (between + within).trace() / width * torch.eye(width)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    p = torch.linalg.eigvalsh(root @ between @ root).clamp(min=0)
    p = p / p.sum() + 1e-7
    assert lidar(z) == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)
    assert lidar(1000 * z + 5) == pytest.approx(lidar(z), rel=1e-6), "neither scale nor place of the features matters"


def test_lidar_of_a_point_is_one_and_of_perfectly_invariant_features_the_rank_of_their_means() -> None:
    assert lidar(torch.ones(10, 3, 6)) == pytest.approx(1, abs=1e-3)
    means = torch.linalg.qr(normal(50, 6)).Q
    assert lidar(means[:, None].expand(50, 3, 6)) == pytest.approx(6, rel=0.02)
    assert math.isnan(lidar(torch.full((4, 2, 3), math.inf)))


def test_alignment_over_views_is_that_of_each_pair() -> None:
    z = normal(9, 4, 5)
    pairs = [alignment(z[:, i], z[:, j]) for i in range(4) for j in range(i)]
    assert view_alignment(z) == pytest.approx(sum(pairs) / len(pairs))
    # by hand: views at 0, 90 and 180 degrees have squared distances 2, 2 and 4
    assert view_alignment(torch.tensor([[[3.0, 0], [0, 2], [-1, 0]]])) == pytest.approx(8 / 3)


def test_names_say_of_how_many_rows_and_views(monkeypatch: pytest.MonkeyPatch) -> None:
    z = normal(300, 40)
    assert list(feature_statistics(z)) == ["rankme-n300", "alpha-req-ranks4-40-n300", "uniformity-n300"]
    assert feature_statistics(z)["rankme-n300"] == pytest.approx(rankme(z))
    assert list(view_statistics(normal(6, 3, 4))) == ["lidar-n6-q3", "alignment-n6-q3"]
    monkeypatch.setattr("diagnostics.feature_stats.RANKME_ROWS", 50)
    monkeypatch.setattr("diagnostics.feature_stats.UNIFORMITY_ROWS", 20)
    found = feature_statistics(z)
    assert list(found) == ["rankme-n50", "alpha-req-ranks4-40-n50", "uniformity-n20"]
    assert found == feature_statistics(z), "the same rows each time"
    assert found["rankme-n50"] != pytest.approx(rankme(z[:50])), "not the first: a folder is sorted by class"


def test_what_features_do_not_have_is_left_out() -> None:
    assert list(feature_statistics(normal(300, 4))) == ["rankme-n300", "uniformity-n300"]
