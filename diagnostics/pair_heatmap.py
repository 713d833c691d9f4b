"""The image-by-description similarity of a few pairs, labelled: what the model sees, beside the sentences it is told.

Rows are images, each with its thumbnail; columns are descriptions, each with its sentence written upwards. Row i and
column i belong together. Beneath the matrix stand the hardest pairs of the whole probe, as `hardest_pairs` finds them.
Colours are those of `diagnostics.heatmap`, on the same fixed scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from diagnostics import palette
from diagnostics.heatmap import FAINT, FRAME, GREY, MARGIN, Panel, beside_bar, title_strip
from diagnostics.lettering import fit, font
from diagnostics.pair_stats import HardPair

LABELLED, SPREAD = 24, 16  # pairs that can be labelled at once; of more, so many are shown

# All in pixels.
_SIDE, _CELL = 640, (30, 72)  # of the matrix, about; of a cell, at least and at most
_WIDTH = 720  # for text, at least
_NUMBER, _GAP = 26, 4  # for a row's number; between labels and matrix
_SENTENCE, _PITCH = 12, 14  # of the columns' sentences: size, and from line to line
_LENGTHS = (130, 160, 190, 230, 270)  # of their lines: the least with which nothing is cut, else the last
_THUMB, _ENTRY, _VALUE = 36, 44, 38  # of the list: thumbnails, entries, width of the values
_VALUES_AT = _NUMBER + _THUMB + 4  # where those start


def pair_heatmap_png(
    similarity: Tensor,
    path: Path,
    title_lines: Sequence[str],
    captions: Sequence[str],
    thumbnails: Tensor,
    group: Tensor | None = None,
    hardest: Sequence[HardPair] = (),
) -> None:
    """Writes the labelled picture, RGB, whole or not at all; of more than 24 pairs it shows 16 spread over them.

    Args:
        similarity: (N, N), images by descriptions; values outside -1..1 are clipped, NaN is drawn in yellow.
        path: ends with `.png`; its folder is made.
        title_lines: the strip above, as in `heatmap_png`.
        captions: N sentences; what does not fit is cut with an ellipsis.
        thumbnails: (N, 3, H, W) uint8, of any size, kept in proportion.
        group: (N,) integers, equal for equal descriptions: taking one for the other is no mistake. None: all differ.
        hardest: listed beneath the matrix.

    Raises:
        ValueError: the matrix is not (N, N) with N >= 1, captions or thumbnails are not N of their kind, or the path
            does not end with .png.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or len(similarity) == 0:
        raise ValueError(f"a picture of pairs needs similarities (N, N), got shape {tuple(similarity.shape)}")
    if path.suffix != ".png":
        raise ValueError(f"a heatmap is a .png file, got {path.name!r}")
    check_labels(len(similarity), captions, thumbnails)
    rows = spread(len(similarity))
    values = similarity.detach().float().cpu().numpy()[np.ix_(rows, rows)]
    cell = min(max(_SIDE // len(rows), _CELL[0]), _CELL[1])
    left = _NUMBER + cell + _GAP
    matrix = palette.paper(len(rows) * cell + 2, left + len(rows) * cell + 2)
    matrix[:, left:] = np.pad(palette.indices(values).repeat(cell, 0).repeat(cell, 1), 1, constant_values=FRAME)
    for i, row in enumerate(rows):
        palette.write(matrix, _NUMBER - 6, 1 + i * cell + cell // 2, str(row), 11, FAINT, anchor="rm")
    width = max(matrix.shape[1], _WIDTH)
    above = np.concatenate([title_strip(title_lines, width, 17), _heads(rows, captions, cell, left, width)])
    listed = _list(hardest, captions, width)
    below = np.concatenate([_note(len(rows), len(similarity), width), listed])

    picture = Image.fromarray(palette.colours()[beside_bar([Panel(above, matrix, below)])])
    top = MARGIN + len(above)
    nearest = _nearest(values, group[rows].tolist() if group is not None else rows)
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y = MARGIN + left + 1 + j * cell, top + 1 + i * cell
            _write_value(picture, value, x, y, cell, cell, framed=nearest[i] == j)
    for i, row in enumerate(rows):
        _paste(picture, thumbnails[row], MARGIN + _NUMBER, top + 2 + i * cell, cell - 2)
    for k, pair in enumerate(hardest):
        y = top + len(matrix) + len(below) - (len(hardest) - k) * _ENTRY
        _paste(picture, thumbnails[pair.image], MARGIN + _NUMBER, y + (_ENTRY - _THUMB) // 2, _THUMB)
        for value, middle in zip((pair.similarity, pair.right), _lines_of(y), strict=True):
            _write_value(picture, value, MARGIN + _VALUES_AT, middle - 8, _VALUE, 16)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save_png(np.asarray(picture), path, {"Title": "\n".join(title_lines)})


def pair_title(heading: str, step: int, statistics: Mapping[str, float]) -> list[str]:
    """The title strip: what, when, and what `pair_statistics` found."""
    there, back = (100 * statistics[f"{way}_top1"] for way in ("image_to_text", "text_to_image"))
    return [
        heading,
        f"step {step:,} · top-1 image to text {there:.1f} % · top-1 text to image {back:.1f} %",
        f"mean diagonal {statistics['diagonal']:.3f} · mean |off-diagonal| {statistics['off_diagonal']:.3f}"
        f" · max |off-diagonal| {statistics['off_diagonal_max']:.3f}",
    ]


def spread(num: int) -> list[int]:
    """The rows that are shown of `num`: all up to 24, else 16 spread evenly from the first to the last."""
    if num <= LABELLED:
        return list(range(num))
    return [round(i * (num - 1) / (SPREAD - 1)) for i in range(SPREAD)]


def check_labels(num: int, captions: Sequence[str] | None, thumbnails: Tensor | None) -> None:
    """Checks what the rows and columns of `num` pairs are labelled with, as far as it is there.

    Raises:
        ValueError: captions or thumbnails are not `num` of their kind.
    """
    if captions is not None and len(captions) != num:
        raise ValueError(f"{len(captions)} captions for {num} pairs")
    if thumbnails is not None and (thumbnails.ndim != 4 or thumbnails.shape[:2] != (num, 3)):
        raise ValueError(f"thumbnails have shape {tuple(thumbnails.shape)}, needed is ({num}, 3, H, W)")
    if thumbnails is not None and thumbnails.dtype != torch.uint8:
        raise ValueError(f"thumbnails are {thumbnails.dtype}, needed is torch.uint8: pixels not yet normalised")


def _nearest(values: NDArray[np.floating], group: list[int]) -> list[int | None]:
    """The column that is framed in each row: its largest value, its own column if that is of the same group."""
    best = values.argmax(axis=1).tolist()
    own = [i if group[i] == group[j] else j for i, j in enumerate(best)]
    return [None if np.isnan(row).any() else j for row, j in zip(values, own, strict=True)]


def _heads(rows: list[int], captions: Sequence[str], cell: int, left: int, width: int) -> NDArray[np.uint8]:
    """The canvas over the matrix: each column's sentence, in as many lines as a cell holds, and its number."""
    most = cell // _PITCH
    for length in _LENGTHS:
        blocks = [fit(captions[row], _SENTENCE, length, most) for row in rows]
        if not any(block and block[-1].endswith("…") for block in blocks):
            break
    longest = max((font(_SENTENCE).getlength(line) for block in blocks for line in block), default=0)
    height = max(round(longest) + 12, 80)  # the name of the axis must fit, too
    canvas = palette.paper(height + 18, width)
    palette.write(canvas, _NUMBER, height + 2, "images", 11, FAINT)
    axis = palette.paper(16, height)
    palette.write(axis, 4, 2, "descriptions", 11, FAINT)
    canvas[:height, left - 18 : left - 2] = np.rot90(axis)
    for j, row in enumerate(rows):
        palette.write(canvas, left + 1 + j * cell + cell // 2, height + 2, str(row), 11, FAINT, anchor="ma")
    for j, block in enumerate(blocks):
        text = palette.paper(len(block) * _PITCH, height)
        for k, line in enumerate(block):
            palette.write(text, 0, k * _PITCH, line, _SENTENCE, GREY)
        x = left + 1 + j * cell + (cell - len(text)) // 2
        canvas[:height, x : x + len(text)] = np.rot90(text)
    return canvas


def _note(num: int, num_all: int, width: int) -> NDArray[np.uint8]:
    canvas = palette.paper(26, width)
    which = "the description" if num == num_all else f"of these {num} descriptions ({num_all} in the probe) the one"
    palette.write(canvas, 0, 7, f"framed: {which} nearest to each image; off the diagonal, not its own", 12, FAINT)
    return canvas


def _list(hardest: Sequence[HardPair], captions: Sequence[str], width: int) -> NDArray[np.uint8]:
    """The canvas of the hardest pairs, still without thumbnails and values: under a heading an entry each."""
    if not hardest:
        return palette.paper(0, width)
    heading = palette.paper(56, width)
    which = f"The hardest pairs of all {len(captions)} images and descriptions"
    palette.write(heading, 0, 12, which if len(captions) > LABELLED else "The hardest pairs", 14)
    palette.write(heading, 0, 34, "above: a description near to the image but not its own · below: its own", 12, FAINT)
    canvas = palette.paper(len(hardest) * _ENTRY, width)
    x = _VALUES_AT + _VALUE + _NUMBER + 4
    for k, pair in enumerate(hardest):
        palette.write(canvas, _NUMBER - 6, k * _ENTRY + _ENTRY // 2, str(pair.image), 11, FAINT, anchor="rm")
        both = (pair.description, pair.similarity, 1.0), (pair.image, pair.right, GREY)
        for (row, value, strength), y in zip(both, _lines_of(k * _ENTRY), strict=True):
            palette.write(canvas, x - 6, y, str(row), 11, FAINT, anchor="rm")
            for line in fit(captions[row], 13, width - x, 1):
                palette.write(canvas, x, y, line, 13, strength, anchor="lm")
            canvas[y - 8 : y + 8, _VALUES_AT : _VALUES_AT + _VALUE] = palette.indices(np.array(value))
    return np.concatenate([heading, canvas])


def _lines_of(y: int) -> tuple[int, int]:
    """The middles of both lines of a list's entry that starts at `y`."""
    return y + _ENTRY // 2 - 9, y + _ENTRY // 2 + 9


def _write_value(
    picture: Image.Image, value: float, x: int, y: int, width: int, height: int, framed: bool = False
) -> None:
    """Writes a similarity in hundredths into the middle of its cell, in ink or paper, whichever stands out there."""
    if np.isnan(value):
        return
    text = f"{value:.2f}".removesuffix(".00").replace("0.", ".", 1)
    text = "0" if text == "-0" else text
    strong = abs(int(palette.indices(np.array(value))) - palette.ZERO) > 55
    fill = tuple(palette.colours()[palette.PAPER if strong else palette.INK].tolist())
    draw = ImageDraw.Draw(picture)
    draw.text((x + width / 2, y + height / 2), text, fill=fill, font=font(11), anchor="mm")
    if framed:
        draw.rectangle((x + 1, y + 1, x + width - 2, y + height - 2), outline=fill)


def _paste(picture: Image.Image, thumbnail: Tensor, x: int, y: int, side: int) -> None:
    """Pastes a (3, H, W) image into the middle of the square at (x, y)."""
    image = Image.fromarray(thumbnail.permute(1, 2, 0).cpu().numpy())
    scale = side / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    picture.paste(image, (x + (side - image.width) // 2, y + (side - image.height) // 2))
