"""Images for the tests of views: what photos have (slopes, edges, grain, flat and overexposed areas), computed."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from augmentations import Drawn


def picture(seed: int, height: int, width: int) -> Image.Image:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    slopes = [np.sin(a * x + b * y + c) for a, b, c in random.uniform(-9, 9, (3, 3))]
    levels = np.stack(slopes, -1) * 160 + random.uniform(60, 190, 3)  # beyond 0 .. 255, so that some areas are cut
    levels += random.normal(0, random.uniform(0, 12), levels.shape)
    top, left = random.integers(0, height), random.integers(0, width)
    levels[top : top + height // 3, left : left + width // 3] = random.uniform(0, 255, 3)
    levels[: height // 8, : width // 6] = random.uniform(0, 255)  # grey
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def across_first(image: Image.Image, drawn: Drawn) -> Tensor:
    """uint8 (3, size, size), the crop that Pillow up to 12 makes; from 13 on some are resized down before across."""
    part = image.crop((drawn.left, drawn.top, drawn.left + drawn.width, drawn.top + drawn.height))
    way = Image.Resampling[drawn.interpolation.upper()]
    part = part.resize((drawn.size, drawn.height), way).resize((drawn.size, drawn.size), way)
    return tensor(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn.flip else part)


def tensor(image: Image.Image) -> Tensor:
    """uint8 (3, H, W) in the layout that decoders give."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
