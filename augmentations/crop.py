"""A view's crop, resize and flip of one image on the CPU, in whole levels: the part that shrinks what is passed on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .pil import turn
from .view import Drawn


def crop(pixels: Tensor, drawn: Drawn) -> Tensor:
    """The crop of uint8 (3, H, W) on the CPU, turned, resized and flipped: uint8 (3, size, size).

    Either memory layout will do; the one that decoders give, (H, W, 3) seen as (3, H, W), is the fastest, and the
    result mostly has it too. `drawn` must have been drawn for this height and width. `rest_of` says what is left to do.

    Raises: ValueError where the pixels are not uint8 (3, H, W).
    Source: torch's antialiased resize of uint8 has Pillow's filters and two rounded passes, across first, as Pillow has
    up to 12. Its weights have 16 bits, not 22: a few levels in a thousand differ, by one. Pillow 13 takes some crops
    down first, which makes a level in seven of such a crop another, mostly by one.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3:
        raise ValueError(f"crop takes uint8 (3, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
    assert 0 <= drawn.top <= pixels.shape[1] - drawn.height, (drawn, pixels.shape)
    assert 0 <= drawn.left <= pixels.shape[2] - drawn.width, (drawn, pixels.shape)
    if drawn.turn is not None:
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        pixels = torch.from_numpy(np.array(turn(image, *drawn.turn, drawn.fill))).permute(2, 0, 1)
    part = pixels[None, :, drawn.top : drawn.top + drawn.height, drawn.left : drawn.left + drawn.width]
    part = part.contiguous(memory_format=torch.channels_last)  # half the time of resizing the strided slice
    sides = (drawn.size, drawn.size)
    part = F.interpolate(part, sides, mode=drawn.interpolation, align_corners=False, antialias=True)[0]
    return part.flip(-1) if drawn.flip else part
