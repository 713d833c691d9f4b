"""The named views against the papers' chains of torchvision's random transforms, by the distribution of the pixels."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T
from torchvision.transforms import functional as F

from augmentations import (
    BARLOW_TWINS,
    CIFAR_BARLOW_TWINS,
    CIFAR_SIMCLR,
    CIFAR_VICREG,
    MOCO_V3_RN50,
    MOCO_V3_VIT,
    PROBE_TRAIN,
    SIMCLR,
    VICREG,
    View,
    render,
    sample_random,
)

N = 800
LIMIT = 2.23 * (2 / N) ** 0.5  # of the Kolmogorov-Smirnov distance of two samples of N; exceeded once in 10,000
SIZE = 24


def photo() -> Image.Image:
    """A coloured picture whose parts differ in brightness, hue, saturation and sharpness."""
    y, x = np.mgrid[:60, :80] / 80
    pixels = np.stack([x, y, 0.6 - 0.4 * x * y], -1) + 0.25 * np.sin(200 * x)[..., None] * (y > 0.4)[..., None]
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def chain(
    blur: float, solarize: float, jitter: tuple[float, ...], smallest: float, mode: str, jitters: float
) -> T.Compose:
    """A view as the papers' PyTorch code composes it."""
    return T.Compose(
        [
            T.RandomResizedCrop(SIZE, scale=(smallest, 1.0), interpolation=T.InterpolationMode(mode)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(*jitter)], p=jitters),
            T.RandomGrayscale(p=0.2 if jitters else 0.0),
            T.RandomApply([T.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))], p=blur),
            T.RandomApply([T.Lambda(ImageOps.solarize)], p=solarize),
        ]
    )


def statistics(pixels: Callable[[int], torch.Tensor]) -> np.ndarray:
    """(8, N): mean of each channel, spread, colourfulness, sharpness, left-right balance, texture of N views."""
    batch = torch.stack([pixels(i) for i in range(N)]).double()
    flat = batch.flatten(1)
    colour = (batch - batch.mean(1, keepdim=True)).flatten(1).std(1)
    edges = (batch[..., 1:] - batch[..., :-1]).flatten(1)
    half = SIZE // 2
    balance = batch[..., :half].mean((1, 2, 3)) - batch[..., half:].mean((1, 2, 3))
    rows = [*batch.mean((2, 3)).T, flat.std(1), colour, edges.abs().mean(1), balance, edges.std(1) / (flat.std(1) + 1)]
    return torch.stack(rows).numpy()


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance, row by row."""
    at = np.concatenate([a, b], 1)
    return np.array(
        [
            np.abs(np.searchsorted(np.sort(x), v, "right") - np.searchsorted(np.sort(y), v, "right")).max() / N
            for x, y, v in zip(a, b, at)
        ]
    )


def ours(view: View) -> np.ndarray:
    image, small = photo(), replace(view, size=SIZE)
    return statistics(lambda i: render(image, small.draw(sample_random(3, 0, i, 0), image.height, image.width)))


@cache
def theirs(composed: T.Compose) -> np.ndarray:
    torch.manual_seed(0)
    random.seed(0)
    image = photo()
    return statistics(lambda _: F.pil_to_tensor(composed(image)))


WEAK, STRONG = (0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2)
PAPERS = {
    "Barlow Twins, first": (BARLOW_TWINS[0], chain(1.0, 0.0, WEAK, 0.08, "bicubic", 0.8)),
    "Barlow Twins, second": (BARLOW_TWINS[1], chain(0.1, 0.2, WEAK, 0.08, "bicubic", 0.8)),
    "SimCLR": (SIMCLR[0], chain(0.5, 0.0, STRONG, 0.08, "bicubic", 0.8)),
    "MoCo v3, ResNet-50, second": (MOCO_V3_RN50[1], chain(0.1, 0.2, WEAK, 0.2, "bilinear", 0.8)),
    "CIFAR VICReg": (CIFAR_VICREG[0], chain(0.0, 0.1, WEAK, 0.2, "bicubic", 0.8)),
    "probe": (PROBE_TRAIN, chain(0.0, 0.0, WEAK, 0.08, "bilinear", 0.0)),
}


@pytest.mark.parametrize(("view", "composed"), PAPERS.values(), ids=PAPERS.keys())
def test_pixels_are_distributed_as_the_papers(view: View, composed: T.Compose) -> None:
    assert (distances(ours(view), theirs(composed)) < LIMIT).all()


@pytest.mark.parametrize(
    "wrong",
    [{"blur": 0.5}, {"solarize": 0.2}, {"gray": 0.0}, {"jitter": 0.0}, {"scale": (0.4, 1.0)}, {"brightness": 0.8}],
    ids=str,
)
def test_the_test_above_sees_a_wrong_value(wrong: dict) -> None:
    view, composed = PAPERS["Barlow Twins, first"]
    assert (distances(ours(replace(view, **wrong)), theirs(composed)) > LIMIT).any()


def test_the_views_of_a_pair_differ_only_where_the_paper_says() -> None:
    for first, second in (BARLOW_TWINS, MOCO_V3_RN50, MOCO_V3_VIT, CIFAR_BARLOW_TWINS):
        assert first != second
        assert replace(first, blur=second.blur, solarize=second.solarize) == second
    assert VICREG == BARLOW_TWINS
    for first, second in (SIMCLR, CIFAR_SIMCLR, CIFAR_VICREG):
        assert first == second
