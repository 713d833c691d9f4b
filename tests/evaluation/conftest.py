from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.sets import Pixels


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def colours():
    """Makes image sets whose classes differ in colour alone: colours(rows, noise) -> set of 12 x 12 images."""

    def make(num: int, noise: float, seed: int = 0, num_classes: int = 6) -> Pixels:
        rng = np.random.default_rng(seed)
        labels = np.arange(num) % num_classes
        centre = np.random.default_rng(7).uniform(60, 200, size=(num_classes, 3))
        values = centre[labels][:, None, None, :] + rng.normal(0, noise, size=(num, 1, 1, 3))
        pixels = np.clip(values + rng.normal(0, 2, size=(num, 12, 12, 3)), 0, 255).astype(np.uint8)
        return Pixels(Path("colours"), tuple(f"class{i}" for i in range(num_classes)), pixels, labels)

    return make


@pytest.fixture
def encoder() -> nn.Module:
    """Returns a small network with a BatchNorm whose statistics a forward in training mode would move."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
    )


@pytest.fixture
def gaussians():
    """Makes features of known difficulty, with unit variance: gaussians(n, d, classes, distance, seed) -> (x, y)."""

    def make(num: int, width: int, num_classes: int, distance: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(seed)
        centres = np.linalg.qr(np.random.default_rng(3).normal(size=(width, num_classes)))[0].T * distance / np.sqrt(2)
        labels = rng.integers(num_classes, size=num)
        rows = centres[labels] + rng.normal(size=(num, width))
        return torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)

    return make
