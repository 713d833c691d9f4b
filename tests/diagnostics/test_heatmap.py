"""Heatmaps are read back as numbers: a pixel's palette index is its value in hundredths plus 100."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from diagnostics import palette
from diagnostics.heatmap import NUMBERS_SIDE, heatmap_png, montage, pool, title
from diagnostics.lettering import font, wrap

STATISTICS = {"diagonal": 0.9876, "off_diagonal": 0.0512, "off_diagonal_max": 0.8343, "top1": 0.9731}


def bordered(num: int, seed: int = 0) -> torch.Tensor:
    """(num, num) uniform in -1..1 with a border of NaN: NaN's colour then marks where the matrix is drawn."""
    m = torch.rand(num, num, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    m[[0, -1]] = m[:, [0, -1]] = torch.nan
    return m


def drawn(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.palette is not None
        assert bytes(image.palette.palette)[: 3 * 256] == palette.colours().tobytes()
        return np.array(image)


def matrix_region(canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.nonzero(canvas == palette.NOT_A_NUMBER)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@pytest.mark.parametrize("num", [3, 16, 100, 300, 512])
def test_every_cell_has_its_value_and_all_cells_are_equally_large(num: int, tmp_path: Path) -> None:
    m = bordered(num)
    heatmap_png(m, tmp_path / "m.png", ["name"])
    region = matrix_region(drawn(tmp_path / "m.png"))
    scale, rest = divmod(len(region), num)
    assert (rest, region.shape[1]) == (0, len(region))
    assert 512 / 1.5 <= len(region) <= 512 * 1.5
    cells = region.reshape(num, scale, num, scale)
    assert (cells == cells[:, :1, :, :1]).all()
    shown = (cells[1:-1, 0, 1:-1, 0].astype(float) - 100) / 100
    assert np.abs(shown - m[1:-1, 1:-1].numpy()).max() <= 0.005 + 1e-6


def test_the_scale_is_fixed_and_values_beyond_it_are_clipped(tmp_path: Path) -> None:
    m = torch.tensor([[torch.nan, 0.5, torch.nan], [-7.0, 0.25, 7.0], [torch.nan, 0.0, torch.nan]])
    heatmap_png(m, tmp_path / "m.png", ["name"], side=30)
    region = matrix_region(drawn(tmp_path / "m.png"))[5::10, 5::10]
    np.testing.assert_array_equal(region, [[255, 150, 255], [0, 125, 200], [255, 100, 255]])


@pytest.mark.parametrize(("shape", "block"), [((12, 12), 4), ((13, 9), 4), ((5, 7), 2), ((3, 3), 5)])
def test_pooling_keeps_the_entry_largest_in_absolute_value(shape: tuple[int, int], block: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).numpy()
    expected = [
        [max(values[i : i + block, j : j + block].ravel(), key=abs) for j in range(0, shape[1], block)]
        for i in range(0, shape[0], block)
    ]
    np.testing.assert_array_equal(pool(values, block), expected)


def test_a_large_matrix_shows_one_outlier_and_its_diagonal(tmp_path: Path) -> None:
    m = torch.zeros(1500, 1500)
    m.fill_diagonal_(1)
    m[700, 100] = -1
    m[[0, -1]] = m[:, [0, -1]] = torch.nan
    heatmap_png(m, tmp_path / "m.png", ["name"])
    region = matrix_region(drawn(tmp_path / "m.png"))
    assert region.shape == (500, 500)
    assert (region.diagonal()[1:-1] == 200).all()
    assert region[700 // 3, 100 // 3] == 0
    off = region[1:-1, 1:-1][~np.eye(498, dtype=bool)]
    assert (off != 100).sum() == 1


def test_numbers_are_kept_as_float16(tmp_path: Path) -> None:
    m = torch.randn(20, 30)
    heatmap_png(m, tmp_path / "new" / "folder" / "m.png", ["name"])
    numbers = np.load(tmp_path / "new" / "folder" / "m.npy")
    assert numbers.dtype == np.float16
    np.testing.assert_array_equal(numbers, m.half().numpy())


def test_of_a_huge_matrix_the_leading_block_is_kept(tmp_path: Path) -> None:
    m = torch.rand(NUMBERS_SIDE + 5, 7)
    heatmap_png(m, tmp_path / "m.png", ["name"])
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), m[:NUMBERS_SIDE].half().numpy())


@pytest.mark.parametrize(
    "text", ["many short words " * 20, "a · b · " * 40, "one part whose words alone are wider than the line · b"]
)
def test_a_long_line_is_wrapped_without_losing_a_word(text: str) -> None:
    lines = wrap(text, 13, 200)
    assert all(font(13).getlength(line) <= 200 for line in lines)
    assert [word for line in lines for word in line.split() if word != "·"] == text.replace("·", "").split()


def test_no_title_runs_out_of_the_picture(tmp_path: Path) -> None:
    lines = ["a rather long name of a matrix " * 5, " · ".join(["some number 0.123"] * 20), "one" * 10]
    heatmap_png(bordered(16), tmp_path / "m.png", lines)
    canvas = drawn(tmp_path / "m.png")
    top = np.nonzero(canvas == palette.NOT_A_NUMBER)[0].min()
    right = np.nonzero(canvas == palette.NOT_A_NUMBER)[1].max()
    strip = canvas[: top - 2]
    assert (strip[:, : right + 1] != palette.PAPER).mean() > 0.05, "no text above the matrix"
    assert (strip[:, right + 3 :] == palette.PAPER).all(), "text beyond the matrix' right edge"


def test_titles_hold_the_statistics_and_only_signs_the_font_has(tmp_path: Path) -> None:
    lines = title("Cosine similarity − 8 × 8", 12000, STATISTICS)
    text = " ".join(lines)
    for part in ("12,000", "97.3 %", "0.988", "0.051", "0.834"):
        assert part in text
    heatmap_png(bordered(8), tmp_path / "m.png", lines)
    with Image.open(tmp_path / "m.png") as image:
        assert image.info["Title"] == "\n".join(lines)
        assert image.info["Shape"] == "8 x 8"
    box = bytes(font(13).getmask("\uffff"))
    drawn_text = set("".join(line for piece in lines for line in wrap(piece, 13, 400))) - {" "}
    assert [sign for sign in drawn_text if bytes(font(13).getmask(sign)) == box] == []
    assert bytes(font(13).getmask("×")) == box, "the font knows the sign now: no need to replace it"


@pytest.mark.parametrize(
    "cone",  # Machado, Oliveira and Fernandes 2009, table 1, severity 1: what a dichromat sees, in linear RGB
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ],
    ids=["protanopia", "deuteranopia"],
)
def test_the_colours_of_plus_and_minus_differ_for_the_colour_blind(cone: list[list[float]]) -> None:
    linear = (palette.colours()[:201] / 255.0) ** 2.2
    seen = (linear @ np.array(cone).T).clip(0, 1) ** (1 / 2.2) * 255
    for hundredths in range(20, 101, 5):
        distance = np.linalg.norm(seen[100 + hundredths] - seen[100 - hundredths])
        assert distance > 40, (hundredths, distance)


def test_darkness_alone_shows_the_strength() -> None:
    luminance = (palette.colours()[:201] / 255.0) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance[:101]) > 0).all()
    assert (np.diff(luminance[100:]) < 0).all()
    lightness = luminance ** (1 / 3)
    assert np.abs(lightness[100:] - lightness[100::-1]).max() < 0.15, "one sign looks stronger than the other"


def test_an_interrupted_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.png"
    heatmap_png(bordered(8), path, ["old"])
    before = path.read_bytes()

    def full_disk(_image: Image.Image, where: Path, **_: object) -> None:
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        heatmap_png(bordered(8, seed=1), path, ["new"])
    assert path.read_bytes() == before


def test_montage_draws_every_panel_from_its_numbers(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        heatmap_png(bordered(16, seed=i), path, title("name", 100 * i, STATISTICS))
    montage(paths, tmp_path / "new" / "all.png", ["before", "middle", "end"], side=64)
    canvas = drawn(tmp_path / "new" / "all.png")
    yellow = (canvas == palette.NOT_A_NUMBER).any(axis=0)
    starts = np.nonzero(np.diff(yellow.astype(int), prepend=0) == 1)[0]
    assert len(starts) == 3
    for i, start in enumerate(starts):
        region = matrix_region(canvas[:, start : start + 64])
        expected = bordered(16, seed=i).half().float().numpy()[1:-1, 1:-1]
        shown = (region[2::4, 2::4][1:-1, 1:-1].astype(float) - 100) / 100
        assert np.abs(shown - expected).max() <= 0.005 + 1e-3
    with Image.open(tmp_path / "new" / "all.png") as image:
        assert image.info["Title"].split("\n") == ["name", "before", "middle", "end"]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        heatmap_png(torch.zeros(3), tmp_path / "m.png", ["name"])
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        heatmap_png(torch.zeros(0, 4), tmp_path / "m.png", ["name"])
    with pytest.raises(ValueError, match=r"m\.jpg"):
        heatmap_png(torch.zeros(2, 2), tmp_path / "m.jpg", ["name"])
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png"):
        montage([tmp_path / "photo.png"], tmp_path / "all.png")
    with pytest.raises(ValueError, match="0, 0"):
        montage([], tmp_path / "all.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]
