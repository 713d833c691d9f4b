"""Pillow's Gaussian blur of a batch, to the bit: three box filters along each axis, each rounded to whole levels."""

from __future__ import annotations

import math
from ctypes import c_float

import torch
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
    Source: as `box`. The whole numbers are Pillow's, which need 32 bits without a sign; levels are taken from the
    middle here, so that they fit into 31 bits and a sign.
    """
    distances = range(reach + 1)
    weights = [torch.where(radius >= k, inner, torch.where(radius + 1 == k, outer, 0)).int() for k in distances]
    missing = 2**BITS - (weights[0] + 2 * sum(weights[1:]))  # the sum of the weights may be 1 short
    half = 2 ** (BITS - 1) - MIDDLE * missing
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
            for k in distances[1:]:
                torch.add(wide.narrow(axis, reach - k, length), wide.narrow(axis, reach + k, length), out=pair)
                x.add_(pair.mul_(weights[k]))
            torch.bitwise_right_shift(x.add_(half), BITS, out=inside)
        x.copy_(inside)
    return x.add_(MIDDLE).float()


def _single(x: float) -> float:
    """x rounded to float32."""
    return c_float(x).value
