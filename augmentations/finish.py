"""What `crop` left of a batch of views, on the batch's device: colours, grey, blur, solarise, normalise.

Nothing is random here, and nothing is asked back from the device: each image has the operations of its own `Drawn`, in
their own order, in the numbers of `Rest`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import colors
from .blur import blur
from .fused import finish_fused
from .pil import constants, standardize
from .rest import STAGES, Op, Rest
from .view import View

CHUNK = 2**19  # numbers at a time on a CPU: fewer cost calls, more leave its cache
LARGE = 2**17  # an image of as many goes alone: nothing is gathered then


def finish(pixels: Tensor, rest: Rest, view: View, compiled: bool = False) -> Tensor:
    """The views whose crops are uint8 (n, 3, S, S): float32 (n, 3, S, S), normalised, on the device of pixels and rest.

    rest: the rows of the same n images, drawn from `view`. compiled: by torch.compile, for a GPU; it takes its time at
    the first call for each shape (fused.py). The result is the same.

    Equal, to the bit, to `normalize` of what `render` makes of the same crop.
    """
    assert pixels.dtype == torch.uint8, pixels.dtype
    assert pixels.ndim == 4, pixels.shape
    assert len(pixels) == len(rest.numbers), (pixels.shape, rest.numbers.shape)
    divisor, offset, scale = constants(view.mean, view.std, pixels.device)
    if compiled:
        return finish_fused(pixels, rest, view, divisor, offset, scale)
    one = pixels[0].numel()
    rows = 1 if one >= LARGE else CHUNK // one
    if pixels.device.type != "cpu" or rows >= len(pixels):
        return standardize(_levels(_planes(pixels), rest), divisor, offset, scale)
    done = torch.empty(pixels.shape, dtype=torch.float32)
    for start in range(0, len(pixels), rows):
        part = slice(start, start + rows)
        levels = _levels(_planes(pixels[part]), Rest.of(rest.numbers[part]))
        done[part] = standardize(levels, divisor, offset, scale)
    return done


def _planes(pixels: Tensor) -> Tensor:
    """pixels as float32, each channel by itself in memory: operations look at one after another."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format)


def _levels(x: Tensor, rest: Rest) -> Tensor:
    """float32 (n, 3, S, S) of whole levels after all operations, one operation after another on the rows that have it.

    x is written to.
    """
    for stage, op, rows in rest.groups():
        every = len(rows) == len(x)
        part = x if every else x.index_select(0, rows)
        numbers = rest.numbers if every else rest.numbers.index_select(0, rows)
        part = _run(op, part, numbers[:, STAGES + stage, None, None, None], numbers, rest.reach)
        x = part if every else x.index_copy_(0, rows, part)
    return x


def _run(op: Op, x: Tensor, number: Tensor, numbers: Tensor, reach: int) -> Tensor:
    """x after the operation. number: the one that goes with it, (n, 1, 1, 1); numbers: the rows, (n, REST)."""
    match op:
        case Op.BRIGHTNESS:
            return colors.brightness(x, number)
        case Op.CONTRAST:
            return colors.contrast(x, number)
        case Op.SATURATION:
            return colors.saturation(x, number)
        case Op.HUE:
            return colors.hue(x, number)
        case Op.GRAY:
            return colors.gray(x)
        case Op.BLUR:
            return blur(x, number, *_box_weights(numbers), reach)
        case Op.SOLARIZE:
            return colors.solarize(x, number)
    raise AssertionError(op)


def _box_weights(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The two weights of each row's box, (n, 1, 1, 1) each."""
    return numbers[:, -2, None, None, None], numbers[:, -1, None, None, None]
