"""Barlow Twins' official code from a checkout; its two-view transform also written out from its description."""

from __future__ import annotations

import importlib.util
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms

SOURCE = "facebookresearch/barlowtwins"
TwoViews = Callable[[Image.Image], tuple[Tensor, Tensor]]


def official_transform(checkout: Path | None) -> tuple[TwoViews, str]:
    """Returns (RGB image -> two normalised views (3, 224, 224), what tables call it).

    Args:
        checkout: of facebookresearch/barlowtwins, whose main.py has `Transform`; None: a plain transcription.
    """
    if checkout is None:
        first, second = _view(blur=1.0, solarize=0.0), _view(blur=0.1, solarize=0.2)
        return lambda image: (first(image), second(image)), f"plain transcription of {SOURCE} main.py @8e8d284"
    return official_main(checkout).Transform(), f"{SOURCE} @{commit_of(checkout)[:7]}"


def official_main(checkout: Path) -> Any:
    """Returns a checkout's main.py as a module; it trains only where it is the script."""
    spec = importlib.util.spec_from_file_location("official_barlow_twins", checkout / "main.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_load(path: str) -> Image.Image:
    """Returns an image as the official code's loader does, torchvision's: Pillow, whole, RGB."""
    with open(path, "rb") as file, Image.open(file) as image:  # noqa: PTH123
        return image.convert("RGB")


def commit_of(checkout: Path) -> str:
    """Returns a checkout's commit: git's word, or what a file COMMIT beside an export of it says."""
    noted = checkout / "COMMIT"
    if noted.is_file():
        return noted.read_text().split()[0]
    asked = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _view(blur: float, solarize: float) -> transforms.Compose:
    """Returns one view; the two differ in how often they are blurred and solarised. Source: main.py, `Transform`."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
    blurred = transforms.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))))
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([blurred], p=blur),
            transforms.RandomApply([transforms.Lambda(ImageOps.solarize)], p=solarize),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
