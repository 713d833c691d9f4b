"""Neighbours against a plain sort, and their picture read back: thumbnails are plain colours, found by them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from diagnostics import neighbours, palette
from diagnostics.neighbours import nearest, queries
from diagnostics.neighbours_png import Neighbour, Query, neighbours_png


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_neighbours_are_those_of_a_plain_sort(chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    train, some = (torch.randn(n, 16, generator=generator).to(dtype) for n in (50, 6))
    index, cosine = nearest(train, some, 8)
    expected, order = (F.normalize(some.float()) @ F.normalize(train.float()).T).sort(dim=1, descending=True)
    assert index.tolist() == order[:, :8].tolist()
    assert torch.allclose(cosine, expected[:, :8])
    assert nearest(train[:3], some, 8)[0].shape == (6, 3)


def test_queries_are_the_same_random_images_for_every_encoder_and_its_own_most_confident_errors() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    predicted = torch.zeros(100, dtype=torch.int64)
    predicted[[3, 50, 70]] = 1
    confidence = torch.linspace(0.1, 0.99, 100)
    random, wrong = queries(labels, predicted, confidence, 2)
    assert wrong == [70, 50], "the right image 99 is surer than both"
    assert random == queries(labels, 1 - predicted, confidence.flip(0), 2)[0] == sorted(set(random))
    assert queries(labels, labels, confidence, 2)[1] == []
    assert len(queries(labels[:3], predicted[:3], confidence[:3], 8)[0]) == 3


def plain(value: int) -> torch.Tensor:
    return torch.tensor([0, 255 - value, 128], dtype=torch.uint8)[:, None, None].expand(3, 9, 9)


def draw(path: Path, right: bool, cosine: float = 0.5) -> NDArray[np.uint8]:
    """Returns the picture of one query (colour 0) with two neighbours (colours 1 and 2), the second of which is not of
    its class."""
    found = [Neighbour(plain(1), "cat", cosine, True), Neighbour(plain(2), "dog " * 40, 0.25, False)]
    rows = [Query(plain(0), "cat", "cat" if right else "dog", 0.98, right, found)]
    neighbours_png([("Random", rows), ("Errors", [])], path, ["a title"])
    with Image.open(path) as image:
        assert image.info["Title"] == "a title"
        return np.array(image)


def box(picture: NDArray[np.uint8], value: int) -> tuple[slice, slice]:
    rows, columns = np.nonzero((picture == plain(value)[:, 0, 0].numpy()).all(axis=2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_the_query_comes_first_then_its_neighbours_framed_by_whether_they_are_right(tmp_path: Path) -> None:
    picture = draw(tmp_path / "deep" / "neighbours.png", right=True)
    boxes = [box(picture, value) for value in range(3)]
    starts = [columns.start for _, columns in boxes]
    assert starts == sorted(starts)
    blue, red = (palette.colours()[palette.ZERO + k] for k in (-72, 72))
    for (rows, columns), colour in zip(boxes[1:], (blue, red), strict=True):
        middle = (rows.start + rows.stop) // 2
        assert (picture[middle, columns.start - 1] == colour).all()
        assert (picture[rows.stop, columns.start + 9] == colour).all()
    assert boxes[0][0].stop - boxes[0][0].start == 88, "the query has no frame"


def test_words_and_values_change_the_picture(tmp_path: Path) -> None:
    first = draw(tmp_path / "a.png", right=True)
    assert not np.array_equal(first, draw(tmp_path / "b.png", right=False))
    assert not np.array_equal(first, draw(tmp_path / "c.png", right=True, cosine=0.51))


def test_nothing_to_show_and_other_pixels_are_refused(tmp_path: Path) -> None:
    query = Query(plain(0).float(), "cat", "cat", 1.0, True, [])
    with pytest.raises(ValueError, match="float32"):
        neighbours_png([("Random", [query])], tmp_path / "a.png", ["t"])
    with pytest.raises(ValueError, match="needs a test image"):
        neighbours_png([("Random", [])], tmp_path / "a.png", ["t"])
    with pytest.raises(ValueError, match=r"a\.jpg"):
        neighbours_png([("Random", [query])], tmp_path / "a.jpg", ["t"])
    assert not list(tmp_path.iterdir())
