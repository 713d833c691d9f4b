"""Pillow's colour operations on a batch: float32 (n, 3, H, W) of whole levels 0 .. 255, before and after.

Each takes one number an image, (n, 1, 1, 1), and equals Pillow to the bit wherever float32 arithmetic is IEEE's: every
product and sum below is either exact in float32 or rounded where Pillow's C rounds. Arguments are never written to.
Source: python-pillow/Pillow src/libImaging/Convert.c, Blend.c and src/PIL/ImageEnhance.py @4e5f09f (the formulas).
"""

from __future__ import annotations

import torch
from torch import Tensor


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """The blend of black with x."""
    return (x * factor).clamp_(max=255).floor_()


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """The blend of the image's mean grey level with x."""
    return blend(mean_level(luma(x)), x, factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """The blend of x in grey with x."""
    return blend(luma(x), x, factor)


def gray(x: Tensor) -> Tensor:
    """The same grey level in all channels."""
    return luma(x).repeat(1, 3, 1, 1)


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """x with the levels from the threshold on inverted."""
    side = (threshold - 0.5 - x).sign_()  # a choice by `where` takes a CPU four times as long
    return (x - 127.5).mul_(side).add_(127.5)


def blend(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """base at factor 0, x at factor 1, beyond it above 1; cut to whole levels."""
    # A fused multiply-add would round once, Pillow rounds twice.
    return (x - base).mul_(factor).add_(base).clamp_(0, 255).floor_()


def luma(x: Tensor) -> Tensor:
    """The grey level (n, 1, H, W)."""
    red, green, blue = x.split(1, dim=1)
    level = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)  # sums below 2**24: exact
    return level.add_(32768).mul_(2.0**-16).floor_()


def mean_level(level: Tensor) -> Tensor:
    """The mean (n, 1, 1, 1) of grey levels (n, 1, H, W), rounded to a whole one."""
    total = level.sum(3, keepdim=True).sum(2, keepdim=True, dtype=torch.float64)  # a row's sum is exact in float32
    return (total / (level.shape[2] * level.shape[3]) + 0.5).floor_().to(level.dtype)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """x with `turn`, in 0 .. 255, added to its hue in 0 .. 255, modulo 256."""
    red, green, blue = x.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    # Which channel is the largest, 1 or 0; of equal ones the first. Sums of these, not `where`: see `solarize`.
    below_red, below_green = (value - red).clamp_(max=1), (value - green).clamp_(max=1)
    most_red, most_green, most_blue = 1 - below_red, below_red - below_red * below_green, below_red * below_green
    # The circle has red at 0, green at 2, blue at 4. The colour lies beside the largest channel's place, on the side of
    # the second largest. Pillow's sum of three quotients has one that is 1, and rounds as the lines with `side` do.
    beside = (green - blue).mul_(most_red).add_((blue - red).mul_(most_green)).add_((red - green).mul_(most_blue))
    side = beside.sign()
    back = (spread - beside.abs_()).div_(spread.clamp(min=1)).mul_(side)
    angle = (2 * most_green).add_(most_blue, alpha=4).add_(side).sub_(back).div_(_number(6, x))
    angle = angle.sub_(angle.floor()).mul_(255).floor_().add_(turn)
    angle = angle.sub_((angle * 2.0**-8).floor_(), alpha=256).mul_(6)
    saturation = spread.mul_(255).div_(value.clamp(min=1)).floor_()
    # How much of the saturation each channel lacks, 0 .. 255. Whole numbers below 2**24 up to the last division.
    lacks = ((angle - 765).abs_().neg_().add_(510), (angle - 510).abs_().sub_(255), (angle - 1020).abs_().sub_(255))
    lack = torch.cat(lacks, 1).clamp_(0, 255).mul_(saturation)
    return lack.neg_().add_(255 * 255).mul_(value).div_(_number(255 * 255, x)).round_()


def _number(value: float, x: Tensor) -> Tensor:
    """The number as a tensor on x's device: by a plain one CUDA multiplies with the reciprocal, which rounds twice."""
    return torch.full((), value, dtype=x.dtype, device=x.device)
