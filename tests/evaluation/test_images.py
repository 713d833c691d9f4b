from pathlib import Path

import numpy as np
import pytest
import torch

from augmentations import View, normalize, render, sample_random
from data.sets import Pixels
from evaluation.images import batches

CPU = torch.device("cpu")
VIEW = View(size=8, blur=0.5, solarize=0.2)


@pytest.fixture
def noise():
    pixels = np.random.default_rng(0).integers(256, size=(9, 12, 14, 3), dtype=np.uint8)
    return Pixels(Path("noise"), ("a",), pixels, np.zeros(9))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_a_function_of_seed_epoch_and_sample(noise, workers):
    rows = [(0, [3, 1, 4]), (0, [2]), (5, [4, 3])]
    found = list(batches(noise, VIEW, iter(rows), CPU, workers, seed=11))
    for x, (epoch, samples) in zip(found, rows, strict=True):
        drawn = [VIEW.draw(sample_random(11, epoch, sample, 0), 12, 14) for sample in samples]
        pixels = [render(noise.image(sample), d) for sample, d in zip(samples, drawn, strict=True)]
        assert torch.equal(x, normalize(torch.stack(pixels), VIEW.mean, VIEW.std))
    assert not torch.equal(found[0][2], found[2][0])  # sample 4 in another epoch
