"""The fixed colours of every picture, and crisp text in them: an 8-bit palette in which a pixel IS its value.

Palette index 0..200 is the value -1..1 in hundredths (index - 100), 201..254 run from paper to ink and carry the text,
255 marks a value that is not a number. So a picture can be read back as numbers, and two pictures compare by eye:
the scale never depends on the data.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from diagnostics.lettering import font, plain

ZERO = 100  # index of the value 0; one index is one hundredth
PAPER, INK = 201, 254
NOT_A_NUMBER = 255

# Blue for negative, red for positive, near white at 0: a pair that red-green blindness keeps apart (the test simulates
# it), with lightness falling evenly away from 0 on both sides so that a grey print still shows the strength.
_POSITIVE = ((247, 247, 247), (248, 194, 170), (228, 119, 92), (181, 33, 47), (98, 0, 30))  # at 0, 1/4, 1/2, 3/4, 1
_NEGATIVE = ((247, 247, 247), (171, 207, 229), (94, 158, 205), (35, 104, 172), (6, 44, 97))
_PAPER_RGB, _INK_RGB, _NAN_RGB = (255, 255, 255), (32, 36, 42), (255, 214, 0)


@cache
def colours() -> NDArray[np.uint8]:
    """(256, 3) RGB table of the palette."""
    anchors = np.array(_NEGATIVE[:0:-1] + _POSITIVE, dtype=float)
    at = np.linspace(-1, 1, len(anchors))
    values = np.linspace(-1, 1, 2 * ZERO + 1)
    diverging = np.stack([np.interp(values, at, channel) for channel in anchors.T], axis=1)
    greys = np.linspace(_PAPER_RGB, _INK_RGB, INK - PAPER + 1)
    table = np.rint(np.concatenate([diverging, greys, [_NAN_RGB]])).astype(np.uint8)
    table.setflags(write=False)
    return table


def indices(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Palette indices of the same shape; values beyond -1..1 are clipped, NaN becomes `NOT_A_NUMBER`."""
    nan = np.isnan(values)
    index = np.rint(np.where(nan, 0, values).clip(-1, 1) * ZERO) + ZERO
    return np.where(nan, NOT_A_NUMBER, index).astype(np.uint8)


def write(
    canvas: NDArray[np.uint8], x: int, y: int, text: str, size: int, strength: float = 1.0, anchor: str = "la"
) -> None:
    """Draws `text` onto the palette canvas (height, width), antialiased through the grey ramp.

    Args:
        x, y: the anchor point, in pixels from the top left.
        strength: 1 is ink, smaller is greyer.
        anchor: Pillow's two letters: l/m/r and a (top) / m (middle).
    """
    mask = Image.new("L", (canvas.shape[1], canvas.shape[0]))
    ImageDraw.Draw(mask).text((x, y), plain(text), fill=255, font=font(size), anchor=anchor)
    box = mask.getbbox()
    if box is None:
        return
    left, top, right, bottom = box
    cover = np.asarray(mask)[top:bottom, left:right] / 255 * strength
    drawn = (PAPER + np.rint(cover * (INK - PAPER))).astype(np.uint8)
    region = canvas[top:bottom, left:right]
    np.copyto(region, drawn, where=cover > 0)


def paper(height: int, width: int) -> NDArray[np.uint8]:
    """An empty palette canvas (height, width)."""
    return np.full((height, width), PAPER, dtype=np.uint8)


def save_png(canvas: NDArray[np.uint8], path: Path, text: dict[str, str]) -> None:
    """Writes a canvas as an 8-bit PNG with `text` entries, atomically: palette indices (H, W) or RGB (H, W, 3)."""
    image = Image.fromarray(canvas)
    if canvas.ndim == 2:
        image.putpalette(colours().tobytes())
    entries = PngImagePlugin.PngInfo()
    for key, value in text.items():
        entries.add_itxt(key, value)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    image.save(unfinished, format="PNG", pnginfo=entries)
    unfinished.replace(path)
