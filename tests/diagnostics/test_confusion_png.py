"""The picture is read back as pixels: blue and red fields stand where the matrix, in its order, has them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diagnostics import palette
from diagnostics.confusion import block_order
from diagnostics.confusion_png import confusion_png
from diagnostics.heatmap import FRAME


def draw(path: Path, matrix: NDArray[np.int64], names: list[str] | None = None) -> NDArray[np.uint8]:
    """Returns the picture (H, W, 3)."""
    confusion_png(matrix, path, ["a title", "below it"], names or [f"class {i}" for i in range(len(matrix))])
    with Image.open(path) as image:
        assert image.mode == "RGB"
        assert image.info["Title"] == "a title\nbelow it"
        return np.array(image)


def colour(signed_share: float) -> NDArray[np.uint8]:
    """Returns the colour of a share: negative where it is right."""
    return palette.colours()[palette.indices(np.array(np.sign(signed_share) * abs(signed_share) ** 0.5))]


def matrix_box(picture: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Returns (top, left, side) of the fields: the largest frame of the picture, found by its lines."""
    frame = (picture == palette.colours()[FRAME]).all(axis=2)
    rows = frame.sum(axis=1)
    lines = np.flatnonzero(rows >= 0.9 * rows.max())
    top, bottom = int(lines[0]), int(lines[-1])
    run = np.flatnonzero(frame[top])
    return top + 1, int(run[0]) + 1, bottom - top - 1


@pytest.mark.parametrize("num", [3, 30, 50, 100])
def test_fields_stand_in_block_order_blue_on_the_diagonal_and_red_beside_it(tmp_path: Path, num: int) -> None:
    rng = np.random.default_rng(num)
    matrix = (rng.integers(0, 40, size=(num, num)) * (rng.uniform(size=(num, num)) < 0.3)).astype(np.int64)
    matrix[range(num), range(num)] = rng.integers(50, 100, size=num)
    picture = draw(tmp_path / "confusion.png", matrix)
    top, left, side = matrix_box(picture)
    assert side % num == 0
    cell, order = side // num, block_order(matrix)
    for i, label in enumerate(order):
        for j, other in enumerate(order):
            share = matrix[label, other] / matrix[label].sum()
            corner = picture[top + i * cell + 1, left + j * cell + 1]  # a number stands in the middle
            assert (corner == colour(-share if i == j else share)).all(), (i, j)


def test_of_many_classes_a_cell_shows_the_strongest(tmp_path: Path) -> None:
    pairs = 2 * np.arange(500)
    matrix = np.diag(np.full(1000, 70))
    matrix[pairs, pairs + 1] = matrix[pairs + 1, pairs] = 30  # so each pair of classes is one cell on the diagonal
    matrix[0, 700], matrix[0, 0] = 10, 60
    picture = draw(tmp_path / "confusion.png", matrix)
    top, left, side = matrix_box(picture)
    assert side == 1000
    fields = picture[top : top + side, left : left + side]
    red = (fields == colour(0.1)).all(axis=2)
    assert red.sum() == 4, "one confusion among a million pairs is one cell of 2 x 2 pixels"


def test_names_and_numbers_change_the_picture_and_any_name_is_drawn(tmp_path: Path) -> None:
    matrix = np.array([[5, 5], [1, 9]])
    first = draw(tmp_path / "a.png", matrix, ["cat", "dog"])
    assert not np.array_equal(first, draw(tmp_path / "b.png", matrix, ["cat", "cow"]))
    draw(tmp_path / "c.png", matrix, ["a name much longer than there is room for " * 9, "\udc80\n"])
    draw(tmp_path / "d.png", np.zeros((1, 1), dtype=np.int64), [""])


def test_what_is_no_confusion_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and 2 names"):
        confusion_png(np.zeros((2, 3), dtype=np.int64), tmp_path / "a.png", ["t"], ["a", "b"])
    with pytest.raises(ValueError, match="1 names"):
        confusion_png(np.zeros((2, 2), dtype=np.int64), tmp_path / "a.png", ["t"], ["a"])
    with pytest.raises(ValueError, match=r"a\.jpg"):
        confusion_png(np.zeros((1, 1), dtype=np.int64), tmp_path / "a.jpg", ["t"], ["a"])
    assert not list(tmp_path.iterdir())
