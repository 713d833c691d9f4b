"""Labelled pictures are read back as pixels: thumbnails here are plain colours that the palette does not have."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from diagnostics import palette
from diagnostics.heatmap import montage
from diagnostics.pair_heatmap import LABELLED, SPREAD, pair_heatmap_png, pair_title, spread
from diagnostics.pair_stats import HardPair, pair_statistics

Pixels = NDArray[np.uint8]
NUMBERS = 18  # pixels: the strip of the columns' numbers, between sentences and matrix
PAPER, INK = (palette.colours()[index] for index in (palette.PAPER, palette.INK))


def similarities(num: int, seed: int = 0) -> torch.Tensor:
    """(num, num) uniform in -0.5..0.5: numbers in all cells are then written in ink."""
    return torch.rand(num, num, generator=torch.Generator().manual_seed(seed)) - 0.5


def colour_of(i: int) -> tuple[int, int, int]:
    return (0, 255 - i, 128)


def thumbnails(num: int, height: int = 9, width: int = 9) -> torch.Tensor:
    plain = torch.tensor([colour_of(i) for i in range(num)], dtype=torch.uint8)
    return plain[:, :, None, None].expand(num, 3, height, width)


def draw(path: Path, similarity: torch.Tensor, captions: list[str] | None = None, **more) -> Pixels:
    num = len(similarity)
    more.setdefault("thumbnails", thumbnails(num))
    pair_heatmap_png(similarity, path, ["a title"], captions or [f"caption {i}" for i in range(num)], **more)
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.array(image)


def boxes(picture: Pixels, i: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the places of thumbnail i, from the top."""
    rows, columns = np.nonzero((picture == colour_of(i)).all(axis=2))
    found: list[tuple[int, int, int, int]] = []
    if not len(rows):
        return found
    for part in np.split(np.unique(rows), np.nonzero(np.diff(np.unique(rows)) > 1)[0] + 1):
        inside = columns[np.isin(rows, part)]
        found.append((int(part[0]), int(inside.min()), len(part), int(np.ptp(inside)) + 1))
    return found


def grid(picture: Pixels, rows: list[int]) -> tuple[int, int, int]:
    """(top, left, cell) of the matrix' first cell, found beside the thumbnails of the rows."""
    first = [boxes(picture, row)[0] for row in rows]
    cell = first[0][2] + 2
    assert [box[0] - first[0][0] for box in first] == [i * cell for i in range(len(rows))], "rows out of line"
    assert all(box[1:] == (first[0][1], cell - 2, cell - 2) for box in first)
    top, left = first[0][0] - 1, first[0][1] + cell - 2
    line = (picture[top + 3, left:] != PAPER).any(axis=1)
    return top, left + int(line.argmax()) + 1, cell  # the first pixel is the matrix' own frame


@pytest.mark.parametrize("num", [1, 2, 3, 12, 16, 24])
def test_every_cell_stands_beside_its_image_and_has_its_value(num: int, tmp_path: Path) -> None:
    similarity = similarities(num)
    picture = draw(tmp_path / "p.png", similarity)
    top, left, cell = grid(picture, list(range(num)))
    assert 30 <= cell <= 72
    corners = picture[top + 3 : top + num * cell : cell, left + 3 : left + num * cell : cell][:num, :num]
    expected = palette.colours()[palette.indices(similarity.numpy())]
    np.testing.assert_array_equal(corners, expected)


def test_a_sentence_stands_upright_over_its_column_and_begins_at_the_matrix(tmp_path: Path) -> None:
    captions = ["", "", "a small moon", "", "a much longer sentence about a large striped star", ""]
    picture = draw(tmp_path / "p.png", similarities(6), captions)
    top, left, cell = grid(picture, list(range(6)))
    foot = top - 1 - NUMBERS
    heads = picture[foot - 100 : foot, left : left + 6 * cell].reshape(100, 6, cell, 3)
    assert [bool((heads[:, j] != PAPER).any()) for j in range(6)] == [bool(caption) for caption in captions]
    written = palette.paper(14, 100)
    palette.write(written, 0, 0, captions[2], 12, 0.8)
    upright = np.rot90(heads[:, 2], -1)[(cell - 14) // 2 :][:14]
    np.testing.assert_array_equal(upright, palette.colours()[written])


def test_a_long_sentence_is_cut_and_stays_within_its_column(tmp_path: Path) -> None:
    captions = ["word " * 200 if i == 1 else "" for i in range(16)]
    picture = draw(tmp_path / "p.png", similarities(16), captions)
    top, left, cell = grid(picture, list(range(16)))
    heads = picture[top - 300 : top - 1 - NUMBERS, left : left + 16 * cell].reshape(-1, 16, cell, 3)
    inked = (heads != PAPER).any(axis=(0, 2, 3))
    assert inked.tolist() == [j == 1 for j in range(16)]
    assert (picture[top - 292 : top - 284, left:] == PAPER).all(), "no gap between the title and the sentences"


@pytest.mark.parametrize("num", [2, 16, 24, 100])
def test_margins_are_empty_and_nothing_is_cut_off(num: int, tmp_path: Path) -> None:
    hardest = [HardPair(i % num, (i + 1) % num, 0.4, 0.3) for i in range(8)]
    picture = draw(tmp_path / "p.png", similarities(num), ["many words " * 30] * num, hardest=hardest)
    for margin in (picture[:14], picture[-6:], picture[:, :14], picture[:, -3:]):
        assert (margin == PAPER).all()
    assert 700 < picture.shape[1] < 880, "a README is 880 pixels wide"


def test_of_many_pairs_some_are_shown_evenly(tmp_path: Path) -> None:
    assert spread(LABELLED) == list(range(LABELLED))
    rows = spread(128)
    assert (len(rows), rows[0], rows[-1]) == (SPREAD, 0, 127)
    assert {b - a for a, b in itertools.pairwise(rows)} == {8, 9}
    similarity = similarities(128)
    picture = draw(tmp_path / "p.png", similarity)
    top, left, cell = grid(picture, rows)
    assert all(boxes(picture, i) == [] for i in range(128) if i not in rows)
    corners = picture[top + 3 :: cell, left + 3 :: cell][:SPREAD, :SPREAD]  # numbers and frames are elsewhere
    expected = palette.colours()[palette.indices(similarity[rows][:, rows].numpy())]
    np.testing.assert_array_equal(corners, expected)


def framed(picture: Pixels, num: int) -> list[tuple[int, int]]:
    top, left, cell = grid(picture, list(range(num)))
    ink = (picture[top + 1 :: cell, left + 1 :: cell][:num, :num] == INK).all(axis=2)
    return [(int(i), int(j)) for i, j in np.argwhere(ink)]


def test_the_description_nearest_to_each_image_is_framed(tmp_path: Path) -> None:
    similarity = similarities(5)
    similarity[2, 4] = torch.nan
    best = similarity.argmax(dim=1).tolist()
    expected = [(i, best[i]) for i in (0, 1, 3, 4)]
    assert framed(draw(tmp_path / "p.png", similarity), 5) == expected


def test_taking_one_of_two_equal_descriptions_is_framed_as_right(tmp_path: Path) -> None:
    similarity = torch.tensor([[0.4, 0.1, 0.4], [0.0, 0.1, 0.3], [0.4, 0.1, 0.4]])
    equal = torch.tensor([0, 1, 0])
    assert framed(draw(tmp_path / "p.png", similarity), 3) == [(0, 0), (1, 2), (2, 0)]
    assert framed(draw(tmp_path / "p.png", similarity, group=equal), 3) == [(0, 0), (1, 2), (2, 2)]


def test_the_hardest_pairs_are_listed_with_image_both_sentences_and_both_values(tmp_path: Path) -> None:
    captions = [f"sentence {i}" for i in range(30)]  # 16 of 30 are shown in the matrix; the list is of all
    hardest = [HardPair(29, 3, 0.44, -0.31), HardPair(7, 4, 0.25, 0.12)]
    bare = draw(tmp_path / "bare.png", similarities(30), captions)
    picture = draw(tmp_path / "p.png", similarities(30), captions, hardest=hardest)
    np.testing.assert_array_equal(picture[: len(bare) - 6], bare[:-6])
    places = [boxes(picture, 29)[-1], boxes(picture, 7)[-1]]
    assert places[0][0] > len(bare) - 6, "beneath the matrix"
    assert places[1][0] - places[0][0] == 44
    for (top, left, height, width), pair in zip(places, hardest, strict=True):
        text = palette.paper(height, 200)
        palette.write(text, 0, height // 2 - 9, captions[pair.description], 13, 1.0, anchor="lm")
        palette.write(text, 0, height // 2 + 9, captions[pair.image], 13, 0.8, anchor="lm")
        beside = picture[top : top + height, left + width :]
        found = np.lib.stride_tricks.sliding_window_view(beside, text.shape, axis=(0, 1))[0]
        drawn = palette.colours()[text].transpose(2, 0, 1)
        assert (found == drawn).all(axis=(1, 2, 3)).any(), captions[pair.description]
        for value, y in ((pair.similarity, height // 2 - 14), (pair.right, height // 2 + 4)):
            swatch = palette.colours()[palette.indices(np.array(value))]
            assert (beside[y] == swatch).all(axis=1).sum() > 20


def test_images_keep_their_proportions(tmp_path: Path) -> None:
    picture = draw(tmp_path / "p.png", similarities(16), thumbnails=thumbnails(16, height=30, width=60))
    (_, left, height, width) = boxes(picture, 3)[0]
    assert (height, width) == (19, 38)
    tall = draw(tmp_path / "p.png", similarities(16), thumbnails=thumbnails(16, height=60, width=30))
    assert boxes(tall, 3)[0][1:] == (left + 9, 38, 19)


def test_numbers_in_the_cells_are_legible_on_their_colour(tmp_path: Path) -> None:
    similarity = torch.tensor([[0.9, 0.1], [-0.9, -0.1]])
    picture = draw(tmp_path / "p.png", similarity)
    top, left, cell = grid(picture, [0, 1])
    inner = slice(6, cell - 6)
    for i, j, expected in [(0, 0, PAPER), (0, 1, INK), (1, 0, PAPER), (1, 1, INK)]:
        of_cell = picture[top + i * cell :, left + j * cell :][inner, inner].astype(int)
        assert (np.abs(of_cell - expected).sum(axis=2) < 150).sum() > 8, (i, j)


def test_signs_of_any_script_do_not_stop_a_run(tmp_path: Path) -> None:
    captions = ["“quotes” it’s", "中文", "🎉 ❤\ufe0f", "\udcc3 half", "two\nlines\tand a tab", "", "عربى", "e\u0301"]
    assert draw(tmp_path / "p.png", similarities(8), captions).shape[2] == 3


def test_values_that_are_not_numbers_are_yellow(tmp_path: Path) -> None:
    similarity = similarities(4)
    similarity[1] = torch.nan
    hardest = [HardPair(0, 2, 0.2, float("nan"))]
    picture = draw(tmp_path / "p.png", similarity, hardest=hardest)
    top, left, cell = grid(picture, [0, 1, 2, 3])
    yellow = palette.colours()[palette.NOT_A_NUMBER]
    assert (picture[top + cell : top + 2 * cell, left : left + 4 * cell] == yellow).all()


def test_the_title_holds_both_directions(tmp_path: Path) -> None:
    similarity = torch.tensor([[0.5, 0.6], [0.1, 0.7]])
    lines = pair_title("Image-description similarity", 12000, pair_statistics(similarity, torch.arange(2)))
    assert lines == [
        "Image-description similarity",
        "step 12,000 · top-1 image to text 50.0 % · top-1 text to image 100.0 %",
        "mean diagonal 0.600 · mean |off-diagonal| 0.350 · max |off-diagonal| 0.600",
    ]
    pair_heatmap_png(similarity, tmp_path / "p.png", lines, ["a", "b"], thumbnails(2))
    with Image.open(tmp_path / "p.png") as image:
        assert image.info["Title"] == "\n".join(lines)
    with pytest.raises(ValueError, match=r"p\.png"):  # a montage is made of matrices
        montage([tmp_path / "p.png"], tmp_path / "all.png")


def test_an_interrupted_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "p.png", similarities(3))
    before = (tmp_path / "p.png").read_bytes()

    def full_disk(_image: Image.Image, where: Path, **_: object) -> None:
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        draw(tmp_path / "p.png", similarities(3, seed=1))
    assert (tmp_path / "p.png").read_bytes() == before


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.png"
    for similarity in (torch.zeros(2, 3), torch.zeros(0, 0), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"\(N, N\)"):
            pair_heatmap_png(similarity, path, ["t"], ["a", "b"], thumbnails(2))
    with pytest.raises(ValueError, match="1 captions for 2"):
        pair_heatmap_png(torch.zeros(2, 2), path, ["t"], ["a"], thumbnails(2))
    with pytest.raises(ValueError, match=r"\(3, 3, 9, 9\)"):
        pair_heatmap_png(torch.zeros(2, 2), path, ["t"], ["a", "b"], thumbnails(3))
    with pytest.raises(ValueError, match="float32"):
        pair_heatmap_png(torch.zeros(2, 2), path, ["t"], ["a", "b"], thumbnails(2).float())
    with pytest.raises(ValueError, match=r"p\.jpg"):
        pair_heatmap_png(torch.zeros(2, 2), path.with_suffix(".jpg"), ["t"], ["a", "b"], thumbnails(2))
    assert list(tmp_path.iterdir()) == []
