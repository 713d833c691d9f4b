"""Execution of a view by Pillow, one image at a time: the reference that every faster execution is tested against.

Each operation equals, to the bit, the one that the papers' code calls (torchvision's on PIL images, or Pillow's own).
"""

import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from .view import Center, ColorOp, Drawn

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def render(image: Image.Image, drawn: Drawn) -> Tensor:
    """The view `drawn` of an RGB image: uint8 (3, size, size).

    `drawn` must have been drawn for this image's height and width.

    Raises: ValueError where the image is not RGB.
    """
    _check_rgb(image)
    assert 0 <= drawn.top <= image.height - drawn.height, (drawn, image.size)
    assert 0 <= drawn.left <= image.width - drawn.width, (drawn, image.size)
    if drawn.turn is not None:
        image = turn(image, *drawn.turn, drawn.fill)
    # Not resize(box=...): its filter reads across the box's border, which the papers' crop-then-resize does not.
    image = image.crop((drawn.left, drawn.top, drawn.left + drawn.width, drawn.top + drawn.height))
    image = image.resize((drawn.size, drawn.size), _RESAMPLING[drawn.interpolation])
    if drawn.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for op, factor in drawn.jitter:
        image = _color(image, op, factor)
    if drawn.gray:
        image = image.convert("L").convert("RGB")
    if drawn.sigma > 0:
        image = image.filter(ImageFilter.GaussianBlur(drawn.sigma))
    if drawn.threshold is not None:
        image = ImageOps.solarize(image, drawn.threshold)
    return _to_tensor(image)


def render_center(image: Image.Image, center: Center) -> Tensor:
    """The evaluation view of an RGB image: uint8 (3, size, size).

    Raises: ValueError where the image is not RGB, or is smaller than `size` and not resized.
    Differs from torchvision's CenterCrop, which pads a too small image with black, in that refusal.
    """
    _check_rgb(image)
    if center.resize is not None:
        short, long = sorted(image.size)
        sides = (center.resize, center.resize * long // short)
        image = image.resize(sides if image.width <= image.height else sides[::-1], _RESAMPLING[center.interpolation])
    if min(image.size) < center.size:
        raise ValueError(
            f"an image of {image.width}x{image.height} pixels has no centre of {center.size}: give `resize`"
        )
    left, top = round((image.width - center.size) / 2), round((image.height - center.size) / 2)
    return _to_tensor(image.crop((left, top, left + center.size, top + center.size)))


def normalize(batch: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """(batch / 255 - mean) / std, channel by channel: uint8 (..., 3, H, W) -> float32 of the same shape and device.

    Equal to the bit to torchvision's ToTensor followed by Normalize.

    Raises: ValueError where the batch is not uint8 (it would be divided by 255 a second time) or has not 3 channels.
    """
    if batch.dtype != torch.uint8 or batch.ndim < 3 or batch.shape[-3] != 3:
        raise ValueError(
            f"normalize takes uint8 (..., 3, H, W) as `render` gives, not {batch.dtype} {tuple(batch.shape)}"
        )
    return standardize(batch.to(torch.float32), *constants(mean, std, batch.device))


def standardize(x: Tensor, divisor: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """(x / divisor - offset) / scale of float32 (..., 3, H, W), written into x."""
    return x.div_(divisor).sub_(offset).div_(scale)


@lru_cache
def constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """255, mean and std on the device, copied there once.

    255 is a tensor too: by a plain number CUDA multiplies with the reciprocal, which rounds differently.
    """
    as_channels = torch.tensor([mean, std], dtype=torch.float32, device=device)[:, :, None, None]
    return torch.tensor(255.0, device=device), as_channels[0], as_channels[1]


def turn(image: Image.Image, angle: float, zoom: float, fill: tuple[int, int, int]) -> Image.Image:
    """torchvision's affine(angle, scale=zoom, interpolation=BILINEAR, fill=fill): clockwise about the centre."""
    x, y = image.width / 2, image.height / 2
    # For each pixel of the result where it comes from; summed in torchvision's order, for the last bit.
    a, b = math.cos(math.radians(angle)) / zoom, math.sin(math.radians(angle)) / zoom
    matrix = (a, b, a * -x + b * -y + x, -b, a, -b * -x + a * -y + y)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)


def _color(image: Image.Image, op: ColorOp, factor: float) -> Image.Image:
    match op:
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(factor)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(factor)
        case "saturation":
            return ImageEnhance.Color(image).enhance(factor)
        case "hue":
            # torchvision's adjust_hue: the factor times 255, cut to an integer, added modulo 256.
            turn = Image.new("HSV", image.size, (int(factor * 255) % 256, 0, 0))
            return ImageChops.add_modulo(image.convert("HSV"), turn).convert("RGB")


def _check_rgb(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise ValueError(f"views are rendered from RGB images, not mode {image.mode!r}: convert it when it is loaded")


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
