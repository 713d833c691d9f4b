import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from augmentations import Center
from data import ImageFolder
from data.sets import Pixels
from models import Backbone, export_encoder
from training.recipe import describe

SPEC = Backbone("resnet10t", {"channels": (8, 8, 8, 8)})  # of `run`


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def colour_set(num: int, noise: float, seed: int = 0, num_classes: int = 6) -> Pixels:
    """Returns 12 x 12 images whose classes differ in colour alone."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    centre = np.random.default_rng(7).uniform(60, 200, size=(num_classes, 3))
    values = centre[labels][:, None, None, :] + rng.normal(0, noise, size=(num, 1, 1, 3))
    pixels = np.clip(values + rng.normal(0, 2, size=(num, 12, 12, 3)), 0, 255).astype(np.uint8)
    return Pixels(Path("colours"), tuple(f"class{i}" for i in range(num_classes)), pixels, labels)


@pytest.fixture
def colours():
    """Makes image sets whose classes differ in colour alone: colours(rows, noise) -> set of 12 x 12 images."""
    return colour_set


def small_encoder(dropout: float = 0.5, seed: int = 0) -> nn.Sequential:
    """Returns a small network with a BatchNorm whose statistics a forward in training mode would move."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
    )


@pytest.fixture
def encoder() -> nn.Module:
    """Returns `small_encoder`."""
    return small_encoder()


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


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Returns a folder of seven classes that differ in colour, 6 train and 3 val images each, PNG, 20 x 24 pixels."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for label, colour in enumerate(rng.uniform(40, 220, size=(7, 3))):
        for split, num in (("train", 6), ("val", 3)):
            (root / split / f"c{label}").mkdir(parents=True)
            for i in range(num):
                pixels = np.clip(colour + rng.normal(0, 8, size=(20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / f"c{label}" / f"{i}.png")
    return root


@pytest.fixture
def run(tmp_path, images):
    """Returns `write_run`."""
    return write_run(tmp_path / "run", images)


def write_run(folder: Path, images: Path) -> Path:
    """Returns the folder of a finished run, as pretrain.py leaves it."""
    view = Center(resize=18, size=16, mean=(0.4, 0.4, 0.4))
    described = {
        "objective": {"kind": "JointEmbedding", "encoder": describe(SPEC)},
        "eval_view": describe(view),
        "data": describe(ImageFolder()),
    }
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"format": 1, "recipe": "test", "described": described}))
    attempts = [{"folder": str(folder.parent), "place": {"data": str(images)}}]
    (folder / "environment.json").write_text(json.dumps({"attempts": attempts}))
    torch.manual_seed(0)
    preprocessing = {"input_size": (3, 16, 16), "mean": view.mean, "std": view.std}
    export_encoder(SPEC.build()[0], SPEC, folder / "encoder", preprocessing)
    return folder
