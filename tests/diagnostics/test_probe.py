from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diagnostics.probe import diagnose
from losses.matrices import cosine_similarity, cross_correlation, sample_correlation

N, D = 24, 40
NAMES = {"cosine_similarity", "cross_correlation", "sample_correlation"}


@pytest.fixture
def views() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(N, D, generator=generator)
    return a, a + 0.5 * torch.randn(N, D, generator=generator)


def test_three_matrices_are_drawn_with_their_numbers(views: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    _, pictures = diagnose(*views, step=100, folder=tmp_path)
    assert set(pictures) == NAMES
    for name, matrix in [
        ("cosine_similarity", cosine_similarity(*views)),
        ("cross_correlation", cross_correlation(*views)),
        ("sample_correlation", sample_correlation(*views)),
    ]:
        assert pictures[name] == tmp_path / name / "step_0000100.png"
        with Image.open(pictures[name]) as image:
            assert "step 100" in image.info["Title"]
        np.testing.assert_array_equal(np.load(pictures[name].with_suffix(".npy")), matrix.half().numpy())
    assert np.load(pictures["cross_correlation"].with_suffix(".npy")).shape == (D, D)


def test_numbers_have_the_probes_names_and_are_plain_floats(
    views: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    numbers, _ = diagnose(*views, step=0, folder=tmp_path)
    expected = {
        f"probe/{name}" for name in ("rankme", "feature_std", "feature_std_min", "alignment", "uniformity", "top1")
    }
    keys = ("diagonal", "off_diagonal", "off_diagonal_max", "top1")
    expected |= {f"probe/{name}/{key}" for name in NAMES for key in keys}
    assert set(numbers) == expected
    assert all(type(value) is float for value in numbers.values())
    assert numbers["probe/top1"] == numbers["probe/cosine_similarity/top1"]


def test_labels_order_both_sample_matrices_and_no_number(
    views: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    labels = [i % 3 for i in range(N)]
    plain, _ = diagnose(*views, step=1, folder=tmp_path / "plain")
    ordered, pictures = diagnose(*views, step=1, folder=tmp_path / "ordered", labels=labels)
    assert ordered == pytest.approx(plain, rel=1e-5)
    order = [i for label in range(3) for i in range(N) if i % 3 == label]  # within a class in the old order
    for name in NAMES - {"cross_correlation"}:
        before = np.load(tmp_path / "plain" / name / "step_0000001.npy")
        after = np.load(pictures[name].with_suffix(".npy"))
        np.testing.assert_allclose(after, before[np.ix_(order, order)], atol=2e-3)
        assert not np.allclose(after, before, atol=2e-3)
    features = [np.load(tmp_path / run / "cross_correlation" / "step_0000001.npy") for run in ("plain", "ordered")]
    np.testing.assert_allclose(*features, atol=2e-3)


def test_half_precision_and_gradients_are_no_trouble(views: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    a, b = (view.bfloat16().requires_grad_() for view in views)
    exact, _ = diagnose(*views, step=1, folder=tmp_path)
    rounded, _ = diagnose(a, b, step=1, folder=tmp_path)
    assert rounded == pytest.approx(exact, rel=0.05, abs=0.01)


def test_mismatched_labels_or_views_are_refused(views: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 labels for 24"):
        diagnose(*views, step=1, folder=tmp_path, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="same shape"):
        diagnose(views[0], views[1][:5], step=1, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
