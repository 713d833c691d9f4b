"""Heatmaps of correlation matrices: small, readable, on one fixed scale, with the numbers kept beside the picture.

The scale is always -1..1 (blue, white, red; values outside are clipped), so pictures of different steps and losses
compare by eye. A small matrix is enlarged by whole pixels; of a large one each pixel shows the entry of its block that
is largest in absolute value, with its sign: averaging a block would hide both a diagonal and a small clump.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diagnostics import palette
from diagnostics.lettering import wrap

NUMBERS_SIDE = 2048  # more rows or columns than this are not stored: 8192 x 8192 would be 134 MB a picture, this is 8

MARGIN, _BAR_WIDTH = 16, 12  # pixels
FRAME = palette.PAPER + 14  # a light grey
GREY, FAINT = 0.8, 0.6  # strength of secondary text


def heatmap_png(matrix: Tensor, path: Path, title_lines: Sequence[str], side: int = 512) -> None:
    """Writes the picture of an (N, M) matrix to `path` and its numbers as float16 to the same name with `.npy`.

    Args:
        matrix: (N, M), values in -1..1; others are clipped in the picture, NaN is drawn in yellow.
        path: ends with `.png`; its folder is made.
        title_lines: the strip above, the first line largest; a line that is too long is wrapped, best at " · ".
        side: about how many pixels the longer side of the matrix takes, within a factor of 1.5.

    The `.npy` holds the leading 2048 x 2048 entries of a larger matrix. Both files appear whole or not at all. The PNG
    carries its title and the matrix' shape as text entries, which `montage` reads.

    Raises:
        ValueError: the matrix is empty or not two-dimensional, or the path does not end with .png.
    """
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"a heatmap needs a matrix (N, M) with entries, got shape {tuple(matrix.shape)}")
    if path.suffix != ".png":
        raise ValueError(f"a heatmap is a .png file, got {path.name!r}")
    values = matrix.detach().float().cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_numbers(values, path.with_suffix(".npy"))
    panel = _panel(values, list(title_lines), side, heading=17)
    shape = " x ".join(map(str, values.shape))
    palette.save_png(beside_bar([panel]), path, {"Title": "\n".join(title_lines), "Shape": shape})


def montage(paths: Sequence[Path], path: Path, captions: Sequence[str] = (), side: int = 256) -> None:
    """Writes several heatmaps side by side, drawn again from their numbers so that the text stays readable.

    Args:
        paths: PNGs that `heatmap_png` wrote, their `.npy` beside them.
        path: the PNG to write; its folder is made.
        captions: a line above each panel, such as "before", "middle", "end"; none by default.
        side: as in `heatmap_png`, of each panel. Three panels of 256 fill the width of a README.

    A first title line that all share stands once, on top. Panels keep the order of `paths`.

    Raises:
        ValueError: no paths, a number of captions that is not theirs, or a PNG that is not one of ours.
    """
    if not paths or (captions and len(captions) != len(paths)):
        raise ValueError(f"a montage needs heatmaps and a caption for each or none: {len(paths)}, {len(captions)}")
    titles = [_title_of(picture) for picture in paths]
    shared = titles[0][0] if len({title[0] for title in titles}) == 1 else ""
    panels = []
    for i, (picture, title) in enumerate(zip(paths, titles, strict=True)):
        lines = title[1:] if shared else title
        lines = [captions[i], *lines] if captions else lines
        panels.append(_panel(np.load(picture.with_suffix(".npy")).astype(np.float32), lines, side, heading=14))
    canvas = beside_bar(panels)
    if shared:
        strip = palette.paper(MARGIN + 24, canvas.shape[1])
        palette.write(strip, MARGIN, MARGIN, shared, 18)
        canvas = np.concatenate([strip, canvas])
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save_png(canvas, path, {"Title": "\n".join([shared, *captions])})


def title(name: str, step: int, statistics: dict[str, float]) -> list[str]:
    """The title strip: what, when, and what `matrix_statistics` found."""
    return [
        name,
        f"step {step:,} · top-1 {100 * statistics['top1']:.1f} %",
        f"mean diagonal {statistics['diagonal']:.3f} · mean |off-diagonal| {statistics['off_diagonal']:.3f}"
        f" · max |off-diagonal| {statistics['off_diagonal_max']:.3f}",
    ]


def pool(values: NDArray[np.floating], block: int) -> NDArray[np.floating]:
    """(ceil(N / block), ceil(M / block)): of each block the entry largest in absolute value, with its sign."""
    if block == 1:
        return values
    high, low = values, values
    for axis in (0, 1):  # rows first: a reduction along memory order, after which little is left for the columns
        starts = np.arange(0, values.shape[axis], block)
        high, low = np.maximum.reduceat(high, starts, axis=axis), np.minimum.reduceat(low, starts, axis=axis)
    return np.where(high >= -low, high, low)


def _cells(values: NDArray[np.floating], side: int) -> tuple[NDArray[np.uint8], int]:
    """The matrix as pixels, and how many rows and columns share one pixel."""
    longest = max(values.shape)
    block = max(1, round(longest / side))
    pixels = palette.indices(pool(values, block))
    scale = max(1, round(side / max(pixels.shape)))
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1), block


def _panel(values: NDArray[np.floating], lines: list[str], side: int, heading: int) -> "Panel":
    """Title lines, the framed matrix and a note on how to read it; `heading` is the first line's size in pixels."""
    pixels, block = _cells(values, side)
    framed = np.pad(pixels, 1, constant_values=FRAME)
    width = max(framed.shape[1], side)
    note = f"{values.shape[0]} x {values.shape[1]}"
    if block > 1:
        note += f" · a pixel is the strongest of {block} x {block}"
    below = palette.paper(22, width)
    palette.write(below, 0, 7, note, 12, FAINT)
    return Panel(title_strip(lines, width, heading), framed, below)


def title_strip(lines: Sequence[str], width: int, heading: int) -> NDArray[np.uint8]:
    """A canvas (height, width) with the lines, wrapped where they are too long; the first one `heading` pixels high."""
    rows = [
        (piece, heading if i == 0 else 13, 1.0 if i == 0 else GREY)
        for i, line in enumerate(lines)
        for piece in wrap(line, heading if i == 0 else 13, width)
    ]
    strip = palette.paper(sum(size + 6 for _, size, _ in rows) + 4, width)
    y = 0
    for piece, size, strength in rows:
        palette.write(strip, 0, y, piece, size, strength)
        y += size + 6
    return strip


@dataclass(frozen=True)
class Panel:
    """Three canvases, one under the other; `above` and `below` are equally wide, `matrix` is no wider."""

    above: NDArray[np.uint8]
    matrix: NDArray[np.uint8]
    below: NDArray[np.uint8]

    def column(self, above: int, matrix: int) -> NDArray[np.uint8]:
        """One canvas, with room for titles `above` pixels high and a matrix `matrix` pixels high."""
        width, height = self.above.shape[1], len(self.matrix)
        wide = np.pad(self.matrix, ((0, 0), (0, width - self.matrix.shape[1])), constant_values=palette.PAPER)
        fill = palette.paper(above - len(self.above), width), palette.paper(matrix - height, width)
        return np.concatenate([self.above, fill[0], wide, self.below, fill[1]])


def beside_bar(panels: list[Panel]) -> NDArray[np.uint8]:
    """The panels in a row, their matrices starting on one line, and the colour bar with -1, 0 and 1 at the right."""
    above = max(len(panel.above) for panel in panels)
    matrix = max(60, *(len(panel.matrix) for panel in panels))  # a bar any shorter cannot hold its three numbers
    columns = [panel.column(above, matrix) for panel in panels]
    height = len(columns[0])
    bar = palette.paper(height, _BAR_WIDTH + 32)
    bar[above : above + matrix, :_BAR_WIDTH] = FRAME
    ramp = palette.indices(np.linspace(1, -1, matrix - 2))
    bar[above + 1 : above + matrix - 1, 1 : _BAR_WIDTH - 1] = ramp[:, None]
    for value, y in ((1, 7), (0, matrix // 2), (-1, matrix - 7)):
        palette.write(bar, _BAR_WIDTH + 6, above + y, str(value), 12, GREY, anchor="lm")
    spaced = [piece for column in columns for piece in (palette.paper(height, MARGIN), column)]
    canvas = np.concatenate([*spaced, palette.paper(height, 12), bar], axis=1)
    return np.pad(canvas, ((MARGIN, 6), (0, 0)), constant_values=palette.PAPER)


def _save_numbers(values: NDArray[np.floating], path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:  # np.save adds a suffix to a name, not to a file
        np.save(file, values[:NUMBERS_SIDE, :NUMBERS_SIDE].astype(np.float16))
    unfinished.replace(path)


def _title_of(picture: Path) -> list[str]:
    with Image.open(picture) as image:
        text = image.info.get("Title")
    if text is None or not picture.with_suffix(".npy").is_file():
        raise ValueError(f"{picture} is not a heatmap of ours: a PNG with a title and its numbers (.npy) beside it")
    return text.split("\n")
