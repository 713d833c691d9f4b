"""Pillow's Gaussian blur of a batch, to the bit: three box filters along each axis, each rounded to whole levels."""

from __future__ import annotations

import math
from ctypes import c_float

import torch
import torch.nn.functional as F
from torch import Tensor

PASSES = 3
BITS = 24  # of the weights, which are whole numbers of 2**-24
MIDDLE = 128


def box(sigma: float) -> tuple[int, int, int]:
    """(radius, inner, outer): the weight of each pixel up to `radius` away and that of the next one, in 2**-24.

    sigma: standard deviation of the blur, in pixels.
    Source: python-pillow/Pillow src/libImaging/BoxBlur.c @4e5f09f (the formulas, in its C floats); Gwosdek et al.,
    "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011.
    """
    variance = _single(_single(_single(sigma) * _single(sigma)) / PASSES)
    whole = math.floor((_single(math.sqrt(12.0 * variance + 1.0)) - 1.0) / 2.0)
    part = _single((2 * whole + 1) * _single(whole * (whole + 1) - _single(3 * variance)))
    part = _single(part / _single(6 * _single(variance - (whole + 1) * (whole + 1))))
    length = _single(whole + part)
    radius = int(length)
    inner = int(_single(2**BITS / _single(_single(length * 2) + 1)))
    return radius, inner, (2**BITS - (2 * radius + 1) * inner) // 2


def blur(x: Tensor, radius: Tensor, inner: Tensor, outer: Tensor, reach: int) -> Tensor:
    """float32 (n, 3, H, W) of whole levels 0 .. 255, blurred; each image by its own box.

    radius, inner, outer: (n, 1, 1, 1) each, as `box` gives them; 0, 2**24 and 0 change nothing. reach: more than every
    radius.
    Source: as `box`. The whole numbers are Pillow's, which need 32 bits without a sign; levels are counted from the
    middle here, so that they fit into 31 bits and a sign.
    """
    *weights, half = weights_of(radius, inner, outer, reach)
    x = (x - MIDDLE).int()
    pair = torch.empty_like(x)  # written again and again: new memory would cost more than the arithmetic
    for axis in (3, 2):
        shape, length = list(x.shape), x.shape[axis]
        shape[axis] += 2 * reach
        wide = x.new_empty(shape)
        inside = wide.narrow(axis, reach, length).copy_(x)
        before, after = wide.narrow(axis, 0, reach), wide.narrow(axis, reach + length, reach)
        for _ in range(PASSES):
            before.copy_(inside.narrow(axis, 0, 1))
            after.copy_(inside.narrow(axis, length - 1, 1))
            torch.mul(inside, weights[0], out=x)
            for k in range(1, reach + 1):
                torch.add(wide.narrow(axis, reach - k, length), wide.narrow(axis, reach + k, length), out=pair)
                x.add_(pair.mul_(weights[k]))
            torch.bitwise_right_shift(x.add_(half), BITS, out=inside)
        x.copy_(inside)
    return x.add_(MIDDLE).float()


def weights_of(radius: Tensor, inner: Tensor, outer: Tensor, reach: int) -> list[Tensor]:
    """The weights of the pixels 0 .. reach away, then what to add before rounding; int32 (n, 1, 1, 1) each."""
    distances = range(reach + 1)
    weights = [torch.where(radius >= k, inner, torch.where(radius + 1 == k, outer, 0)).int() for k in distances]
    missing = 2**BITS - (weights[0] + 2 * sum(weights[1:]))  # their sum may be 1 short
    return [*weights, 2 ** (BITS - 1) - MIDDLE * missing]


def box_pass(x: Tensor, weights: list[Tensor], axis: int) -> Tensor:
    """uint8 (n, 3, H, W) after one box along `axis`: what `blur` does six times, as one expression for a compiler.

    weights: as `weights_of` gives them.
    """
    *weights, half = weights
    reach, length = len(weights) - 1, x.shape[axis]
    sides = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
    wide = F.pad(x.int() - MIDDLE, sides, mode="replicate")
    total = wide.narrow(axis, reach, length) * weights[0] + half
    for k in range(1, reach + 1):
        pair = wide.narrow(axis, reach - k, length) + wide.narrow(axis, reach + k, length)
        total = total + pair * weights[k]
    return ((total >> BITS) + MIDDLE).to(torch.uint8)


def _single(x: float) -> float:
    """x rounded to float32."""
    return c_float(x).value
