"""Test images beside the training images that an encoder finds nearest to them: what it sees as alike.

A row a test image: with its class and what it was taken for at the left, then its neighbours, the nearest first, each
with class and cosine similarity. One of the same class is framed in blue and ticked, any other in red and crossed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diagnostics import palette
from diagnostics.heatmap import GREY, MARGIN, title_strip
from diagnostics.lettering import fit, font

# All in pixels.
_THUMB, _FRAME, _BADGE = 88, 3, 15
_TEXT = 128  # width of what stands beside a query
_SPACE, _LINE, _BETWEEN = 10, 16, 12  # from picture to picture; of a line of text; from row to row
_HEADING = 30

_RIGHT, _WRONG = (tuple(palette.colours()[index].tolist()) for index in (palette.ZERO - 72, palette.ZERO + 72))
_INK, _PAPER = (tuple(palette.colours()[index].tolist()) for index in (palette.INK, palette.PAPER))
_GREY = tuple(palette.colours()[palette.PAPER + round(GREY * (palette.INK - palette.PAPER))].tolist())


@dataclass(frozen=True)
class Neighbour:
    """A training image: pixels (3, H, W) uint8, the name of its class, its cosine similarity, whether it is right."""

    pixels: Tensor
    name: str
    cosine: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A test image: pixels (3, H, W) uint8, the name of its class, what it is taken for at which probability."""

    pixels: Tensor
    name: str
    taken_for: str
    confidence: float
    right: bool
    neighbours: Sequence[Neighbour]


def neighbours_png(groups: Sequence[tuple[str, Sequence[Query]]], path: Path, title_lines: Sequence[str]) -> None:
    """Writes the picture, RGB, whole or not at all.

    Args:
        groups: rows under a heading each; one without rows is left out.
        path: ends with `.png`; its folder is made.
        title_lines: the strip above, as in `heatmap_png`.

    Raises:
        ValueError: there is nothing to show, pixels are not (3, H, W) uint8, or the path does not end with .png.
    """
    groups = [(heading, rows) for heading, rows in groups if rows]
    if not groups:
        raise ValueError("a picture of neighbours needs a test image")
    if path.suffix != ".png":
        raise ValueError(f"a picture is a .png file, got {path.name!r}")
    most = max(len(query.neighbours) for _, rows in groups for query in rows)
    first = _THUMB + _SPACE + _TEXT  # where the neighbours begin
    width = max(first + most * (_THUMB + _SPACE) - _SPACE, 480)
    high = _THUMB + _LINE + _BETWEEN
    head = title_strip(title_lines, width, 17)
    height = len(head) + sum(_HEADING + len(rows) * high for _, rows in groups)
    picture = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), _PAPER)
    picture.paste(Image.fromarray(palette.colours()[head]), (MARGIN, MARGIN))
    draw = ImageDraw.Draw(picture)
    y = MARGIN + len(head)
    for heading, rows in groups:
        draw.text((MARGIN, y + 8), heading, fill=_INK, font=font(14))
        y += _HEADING
        for query in rows:
            _paste(picture, query.pixels, MARGIN, y)
            x = MARGIN + _THUMB + _SPACE
            _write(draw, query.name, x, y + 2, 13, _TEXT - 24, _INK)
            verdict = "right" if query.right else f"taken for {query.taken_for}"
            lines = fit(verdict, 12, _TEXT - 24, 3)
            for k, line in enumerate(lines):
                draw.text((x, y + 24 + k * _LINE), line, fill=_RIGHT if query.right else _WRONG, font=font(12))
            draw.text((x, y + 26 + len(lines) * _LINE), f"at {_percent(query.confidence)}", fill=_GREY, font=font(11))
            for k, neighbour in enumerate(query.neighbours):
                _draw_neighbour(picture, draw, neighbour, MARGIN + first + k * (_THUMB + _SPACE), y)
            y += high
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save_png(np.asarray(picture), path, {"Title": "\n".join(title_lines)})


def _draw_neighbour(picture: Image.Image, draw: ImageDraw.ImageDraw, neighbour: Neighbour, x: int, y: int) -> None:
    colour = _RIGHT if neighbour.right else _WRONG
    _paste(picture, neighbour.pixels, x, y)
    draw.rectangle((x, y, x + _THUMB - 1, y + _THUMB - 1), outline=colour, width=_FRAME)
    left, top = x + _THUMB - _BADGE, y
    draw.rectangle((left, top, x + _THUMB - 1, top + _BADGE - 1), fill=colour)
    if neighbour.right:
        draw.line([(left + 4, top + 7), (left + 6, top + 10), (left + 11, top + 4)], fill=_PAPER, width=2)
    else:
        for ends in (((4, 4), (10, 10)), ((10, 4), (4, 10))):
            draw.line([(left + a, top + b) for a, b in ends], fill=_PAPER, width=2)
    value = f"{neighbour.cosine:.2f}"
    draw.text((x + _THUMB - 1, y + _THUMB + 3), value, fill=_GREY, font=font(11), anchor="ra")
    _write(draw, neighbour.name, x, y + _THUMB + 3, 11, _THUMB - round(font(11).getlength(value)) - 6, colour)


def _write(
    draw: ImageDraw.ImageDraw, text: str, x: int, y: int, size: int, width: int, colour: tuple[int, ...]
) -> None:
    """Writes as much of a line as fits."""
    draw.text((x, y), "".join(fit(text, size, width, 1)), fill=colour, font=font(size))


def _percent(share: float) -> str:
    """Returns "98 %", and never "100 %" of what is less."""
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _paste(picture: Image.Image, pixels: Tensor, x: int, y: int) -> None:
    """Pastes an image (3, H, W) into the middle of the square at (x, y), in proportion."""
    if pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != torch.uint8:
        raise ValueError(f"an image is (3, H, W) torch.uint8, got {tuple(pixels.shape)} {pixels.dtype}")
    image = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    scale = _THUMB / max(image.size)
    sides = [max(1, round(scale * side)) for side in image.size]
    image = image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    picture.paste(image, (x + (_THUMB - image.width) // 2, y + (_THUMB - image.height) // 2))
