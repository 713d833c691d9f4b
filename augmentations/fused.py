"""`finish` for a GPU: every stage on the whole batch, masked by row, each built by torch.compile into a few kernels.

Its shapes do not depend on what was drawn, so that it is built once. Levels lie in memory as bytes between the stages:
the time of fused kernels is that of their memory traffic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import colors
from .blur import PASSES, box, box_pass, weights_of
from .pil import standardize
from .rest import BLUR, GRAY, JITTER, SOLARIZE, STAGES, Op, Rest
from .view import View

# Plain numbers, which torch.compile knows how to compare with tensors.
_NOTHING, _CONTRAST, _SATURATION, _HUE = Op.NOTHING.value, Op.CONTRAST.value, Op.SATURATION.value, Op.HUE.value


def finish_fused(pixels: Tensor, rest: Rest, view: View, divisor: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """As `finish`: uint8 (n, 3, S, S) -> float32. The last three arguments are `standardize`'s."""
    columns = rest.numbers.T.contiguous()[:, :, None, None, None]  # (REST, n, 1, 1, 1)
    x = pixels
    if view.jitter:
        for stage in JITTER:
            x = _built(_jitter)(x, columns[stage], columns[STAGES + stage])
    if view.gray:
        x = _built(_gray)(x, columns[GRAY])
    if view.blur:
        reach = box(view.sigma[1])[0] + 1
        assert rest.reach <= reach, (rest.reach, view)
        weights = weights_of(columns[STAGES + BLUR], columns[-2], columns[-1], reach)
        for axis in (3, 2):
            for _ in range(PASSES):
                x = _built(box_pass)(x, weights, axis)
    return _built(_last)(x, columns[SOLARIZE], columns[STAGES + SOLARIZE], divisor, offset, scale)


def _jitter(x: Tensor, op: Tensor, number: Tensor) -> Tensor:
    """uint8 after one stage of the colours, whichever each row has."""
    levels = x.float()
    gray = colors.luma(levels)
    base = torch.where(op == _SATURATION, gray, torch.where(op == _CONTRAST, colors.mean_level(gray), 0))
    factor = torch.where((op == _NOTHING) | (op == _HUE), 1, number)
    blended = colors.blend(base, levels, factor)
    return torch.where(op == _HUE, colors.hue(levels, number), blended).to(torch.uint8)


def _gray(x: Tensor, op: Tensor) -> Tensor:
    levels = x.float()
    return torch.where(op == _NOTHING, levels, colors.luma(levels)).to(torch.uint8)


def _last(x: Tensor, op: Tensor, threshold: Tensor, divisor: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    levels = x.float()
    levels = torch.where(op == _NOTHING, levels, colors.solarize(levels, threshold))
    return standardize(levels, divisor, offset, scale)


@lru_cache
def _built(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as torch.compile builds it, with the rounding of each operation kept."""
    exact = ("eager_numerics.division_rounding", "emulate_divison_rounding", "emulate_precision_casts")
    known = torch._inductor.list_options()  # the names differ between versions
    options: dict[str, Any] = {name: True for name in exact if name in known}
    return torch.compile(function, dynamic=False, options=options)
