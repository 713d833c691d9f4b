"""The confusion matrix as a picture: what is right in blue on the diagonal, what is wrong in red beside it.

Rows are the true classes, each divided by its number of images; columns what they are taken for. Classes that are taken
for each other stand together, so families of them are blocks along the diagonal. The colour goes by the square root of
the share, on one fixed scale: a hundredth is a tenth of the way, so that rare confusions are seen, too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diagnostics import palette
from diagnostics.confusion import block_order, hardest, shares, worst
from diagnostics.heatmap import FAINT, FRAME, GREY, MARGIN, pool, title_strip
from diagnostics.lettering import fit, font

# All in pixels.
_SIDE, _CELL = 900, 56  # of the matrix, about; of a cell, at most
_NUMBERED, _NAMED, _POOLED = 24, 12, 2  # a cell that holds a number; one beside which its name fits; the smallest
_PITCH = 15  # from name to name, at least, where not every class has one
_NAME, _GAP = 150, 6  # of a name, at most; between names and matrix
_LIST, _BETWEEN = 400, 32  # a list's width, at least; between the two
_LISTED, _ENTRY, _SWATCH = 12, 24, 44  # entries of a list; their height; width of the coloured share
_BAR, _RAMP = 80, 12  # room for the colour bar; width of each of its two colours

Spot = tuple[float, int, int, int, int]  # a signed share and where it is written: x, y, width, height


def confusion_png(matrix: NDArray[np.int64], path: Path, title_lines: Sequence[str], names: Sequence[str]) -> None:
    """Writes the picture of a confusion matrix, RGB, whole or not at all.

    Up to 37 classes have their shares in percent written in, up to 75 all their names beside them; of more, a name
    stands every few rows; of more than 675, a cell shows the strongest of several. Beneath are the most frequent
    confusions and the hardest classes, by name.

    Args:
        matrix: (C, C), row i, column j: how many images of class i are taken for class j.
        path: ends with `.png`; its folder is made.
        title_lines: the strip above, as in `heatmap_png`.
        names: of the C classes; what does not fit is cut with an ellipsis.

    Raises:
        ValueError: the matrix is not (C, C) with C names, or the path does not end with .png.
    """
    num = len(matrix)
    if matrix.shape != (num, num) or num == 0 or len(names) != num:
        raise ValueError(f"a confusion matrix is (C, C) with C names, got {matrix.shape} and {len(names)} names")
    if path.suffix != ".png":
        raise ValueError(f"a picture is a .png file, got {path.name!r}")
    order = block_order(matrix)
    signed = shares(matrix)[np.ix_(order, order)]
    np.fill_diagonal(signed, -signed.diagonal())  # blue is right, red is wrong
    body, spots, note = _body(signed, [names[k] for k in order])
    width = max(body.shape[1], 2 * _LIST + _BETWEEN)
    head, foot = title_strip(title_lines, width, 17), palette.paper(30, width)
    palette.write(foot, 0, 8, note, 12, FAINT)
    lists, more = _lists(matrix, names, width)
    parts = [head, body, foot, lists]
    canvas = np.concatenate([_widened(part, width) for part in parts])
    picture = Image.fromarray(palette.colours()[np.pad(canvas, MARGIN, constant_values=palette.PAPER)])
    draw = ImageDraw.Draw(picture)
    for down, those in ((len(head), spots), (len(canvas) - len(lists), more)):
        for share, x, y, wide, high in those:
            _write_share(draw, share, MARGIN + x + wide / 2, MARGIN + down + y + high / 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save_png(np.asarray(picture), path, {"Title": "\n".join(title_lines)})


def _coloured(signed: NDArray[np.floating]) -> NDArray[np.uint8]:
    return palette.indices(np.sign(signed) * np.sqrt(np.abs(signed)))


def _body(signed: NDArray[np.float64], names: list[str]) -> tuple[NDArray[np.uint8], list[Spot], str]:
    """Returns the canvas of the matrix with names and colour bar, the shares to write in, and how to read it."""
    block = max(1, round(_POOLED * len(signed) / _SIDE))
    values = pool(signed, block)
    cell = min(max(_POOLED, _SIDE // len(values)), _CELL)
    framed = np.pad(_coloured(values).repeat(cell, 0).repeat(cell, 1), 1, constant_values=FRAME)
    every = 1 if cell >= _NAMED else -(-_PITCH // cell)  # rows from name to name
    named = [(1 + i * cell + cell // 2, names[i * block]) for i in range(0, len(values), every)]
    texts = [(at, "".join(fit(name, 11, _NAME, 1))) for at, name in named]
    longest = round(max(font(11).getlength(text) for _, text in texts))

    side, left, top = len(framed), longest + _GAP, _GAP  # above: a name may be higher than its row
    if every == 1:
        top += longest + _GAP
    canvas = palette.paper(top + side + _GAP, left + side + _BAR)
    canvas[top : top + side, left : left + side] = framed
    _draw_bar(canvas, left + side + 10, top, side)
    for at, text in texts:
        palette.write(canvas, longest, top + at, text, 11, GREY, anchor="rm")
        if every == 1:
            lying = palette.paper(14, longest)
            palette.write(lying, 0, 7, text, 11, GREY, anchor="lm")
            canvas[top - _GAP - longest : top - _GAP, left + at - 7 : left + at + 7] = np.rot90(lying)
    spots: list[Spot] = []
    if cell >= _NUMBERED:
        shown = [(int(i), int(j)) for i, j in zip(*values.nonzero(), strict=True)]
        spots = [(float(values[i, j]), left + 1 + j * cell, top + 1 + i * cell, cell, cell) for i, j in shown]
    notes = ["row: the true class", "column: what it is taken for", "blue: right, red: wrong"]
    notes += ["numbers: % of the row's images"] if spots else []
    notes += [f"a cell shows the strongest of {block} x {block}"] if block > 1 else []
    return canvas, spots, " · ".join(notes)


def _draw_bar(canvas: NDArray[np.uint8], x: int, y: int, height: int) -> None:
    """Draws the colour bar at (x, y): right and wrong side by side, from all of a class to none."""
    canvas[y : y + height, x : x + 2 * _RAMP + 2] = FRAME
    ramp = np.linspace(1, 0, height - 2)[:, None].repeat(_RAMP, axis=1)
    canvas[y + 1 : y + height - 1, x + 1 : x + 1 + 2 * _RAMP] = palette.indices(np.concatenate([-ramp, ramp], axis=1))
    for percent in (100, 50, 25, 10, 1):
        down = round((1 - (percent / 100) ** 0.5) * (height - 1))
        at = y + min(max(down, 7), height - 8)
        palette.write(canvas, x + 2 * _RAMP + 8, at, f"{percent} %", 11, GREY, anchor="lm")


def _lists(matrix: NDArray[np.int64], names: Sequence[str], width: int) -> tuple[NDArray[np.uint8], list[Spot]]:
    """Returns the canvas of both lists, side by side, and the shares to write on their coloured fields."""
    both = [
        ("The most frequent confusions", worst(matrix, _LISTED), "{} taken for {}"),
        ("The hardest classes", hardest(matrix, _LISTED), "{}"),
    ]
    column = (width - _BETWEEN) // 2
    canvas = palette.paper(34 + _ENTRY * max(len(entries) for _, entries, _ in both), width)
    spots = []
    for k, (heading, entries, text) in enumerate(both):
        x = k * (column + _BETWEEN)
        palette.write(canvas, x, 8, heading, 14)
        for i, entry in enumerate(entries):
            y = 34 + i * _ENTRY
            share = -entry.share if entry.label == entry.taken_for else entry.share
            canvas[y : y + _ENTRY - 4, x : x + _SWATCH] = _coloured(np.array(share))
            spots.append((share, x, y, _SWATCH, _ENTRY - 4))
            count = f"{entry.num:,} of {entry.of:,}"
            space = column - _SWATCH - 10 - round(font(11).getlength(count)) - 12
            line = fit(text.format(names[entry.label], names[entry.taken_for]), 13, space, 1)
            palette.write(canvas, x + _SWATCH + 10, y + _ENTRY // 2 - 2, "".join(line), 13, GREY, anchor="lm")
            palette.write(canvas, x + column, y + _ENTRY // 2 - 2, count, 11, FAINT, anchor="rm")
    return canvas, spots


def _write_share(draw: ImageDraw.ImageDraw, share: float, x: float, y: float) -> None:
    """Writes a share in percent about (x, y), in ink or paper, whichever stands out on its colour."""
    percent = 100 * abs(share)
    text = "<1" if 0 < percent < 1 else f"{percent:.0f}"
    strong = abs(share) ** 0.5 > 0.55
    fill = tuple(palette.colours()[palette.PAPER if strong else palette.INK].tolist())
    draw.text((x, y), text, fill=fill, font=font(11), anchor="mm")


def _widened(canvas: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    return np.pad(canvas, ((0, 0), (0, width - canvas.shape[1])), constant_values=palette.PAPER)
