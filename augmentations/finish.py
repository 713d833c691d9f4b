"""What `crop` left of a batch of views, on the batch's device: colours, grey, blur, solarise, normalise.

Nothing is random here, and nothing is asked back from the device: each image has the operations of its own `Drawn`, in
their own order, in the numbers of `Rest`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from . import colors
from .blur import blur, box
from .pil import constants, standardize
from .rest import BLUR, GRAY, JITTER, SOLARIZE, STAGES, Op, Rest
from .view import View

CHUNK = 2**18  # numbers at a time on a CPU: what a core's cache holds


def finish(pixels: Tensor, rest: Rest, view: View, compiled: bool = False) -> Tensor:
    """The views whose crops are uint8 (n, 3, S, S): float32 (n, 3, S, S), normalised, on the device of pixels and rest.

    rest: the rows of the same n images, drawn from `view`. compiled: by torch.compile, as a few fused kernels, built
    once for each view and shape; for GPUs. The result is the same.

    Equal, to the bit, to `normalize` of what `render` makes of the same crop.
    """
    assert pixels.dtype == torch.uint8, pixels.dtype
    assert pixels.ndim == 4, pixels.shape
    assert len(pixels) == len(rest.numbers), (pixels.shape, rest.numbers.shape)
    divisor, offset, scale = constants(view.mean, view.std, pixels.device)
    if compiled:
        assert rest.reach <= _reach(view), (rest.reach, view)
        return _compiled(view)(pixels, rest.numbers, divisor, offset, scale)
    rows = max(1, CHUNK // pixels[0].numel())
    if pixels.device.type != "cpu" or rows >= len(pixels):
        return standardize(_levels(pixels.float(), rest), divisor, offset, scale)
    done = torch.empty(pixels.shape, dtype=torch.float32)
    for start in range(0, len(pixels), rows):
        part = slice(start, start + rows)
        levels = _levels(pixels[part].float(), Rest.of(rest.numbers[part]))
        done[part] = standardize(levels, divisor, offset, scale)
    return done


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


def _every_row(pixels: Tensor, numbers: Tensor, view: View) -> Tensor:
    """`_levels` without a choice of rows: each stage on the whole batch, so that its shapes are always the same.

    Levels pass from stage to stage as bytes, which is what the time of fused kernels depends on.
    """
    x = pixels
    for stage in JITTER if view.jitter else ():
        op, number = (numbers[:, place, None, None, None] for place in (stage, STAGES + stage))
        level = colors.luma(x.float())
        base = torch.where(op == Op.CONTRAST, colors.mean_level(level), torch.where(op == Op.SATURATION, level, 0))
        factor = torch.where((op == Op.NOTHING) | (op == Op.HUE), 1, number)
        turned = colors.hue(x.float(), number) if view.hue else x.float()
        x = torch.where(op == Op.HUE, turned, colors.blend(base, x.float(), factor)).to(torch.uint8)
    op = numbers[:, :STAGES, None, None, None]
    if view.gray:
        x = torch.where(op[:, GRAY] == Op.GRAY, colors.luma(x.float()), x.float()).to(torch.uint8)
    if view.blur:  # the box of a row without blur changes nothing
        radius = numbers[:, STAGES + BLUR, None, None, None]
        x = blur(x.float(), radius, *_box_weights(numbers), _reach(view)).to(torch.uint8)
    if view.solarize:
        threshold = torch.where(op[:, SOLARIZE] == Op.SOLARIZE, numbers[:, STAGES + SOLARIZE, None, None, None], 256)
        x = colors.solarize(x.float(), threshold)
    return x.float()


@lru_cache
def _compiled(view: View) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The whole of `finish` for a view, to be built at its first call for each shape."""

    def run(pixels: Tensor, numbers: Tensor, divisor: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
        return standardize(_every_row(pixels, numbers, view), divisor, offset, scale)

    exact = ("eager_numerics.division_rounding", "emulate_divison_rounding", "emulate_precision_casts")
    known = torch._inductor.list_options()
    return torch.compile(run, dynamic=False, options={name: True for name in exact if name in known})


def _box_weights(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The two weights of each row's box, (n, 1, 1, 1) each."""
    return numbers[:, -2, None, None, None], numbers[:, -1, None, None, None]


def _reach(view: View) -> int:
    """How far any box of the view's blur takes in pixels on each side."""
    return box(view.sigma[1])[0] + 1 if view.blur else 1
