from pathlib import Path

import numpy as np
import pytest

from diagnostics import palette
from diagnostics.lettering import fit, font, plain


def ink(text: str) -> bytes:
    canvas = palette.paper(40, 400)
    palette.write(canvas, 4, 4, text, 13)
    return canvas.tobytes()


BOX = "\uffff"


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("“curly” ‘quotes’, it’s…", "“curly” ‘quotes’, it’s…"),  # the font has these
        ("café naïve smörgåsbord Łódź Straße œuvre", "cafe naive smorgasbord Lodz Strasse oeuvre"),
        ("8 × 8 − 1 ≤ 63 – yes", "8 x 8 - 1 <= 63 - yes"),
        ("a\tb\nc\u00a0d\u2028e  f\x00g\x85h", "a b c d e f g h"),
        ("e\u0301 \u200bx\u200d \ufe0f", "e x"),  # a combining accent, joiners and a variation selector
        ("Ｆｕｌｌ ½", "Full 1⁄2"),
        ("half \udcc3 sign", "half sign"),  # what undecodable bytes become
        ("", ""),
    ],
)
def test_captions_are_drawn_in_signs_the_font_has(text: str, readable: str) -> None:
    assert plain(text) == readable
    assert all(ink(sign) != ink(BOX) for sign in readable)
    assert ink(text) == ink(readable)


def test_signs_with_nothing_near_are_boxes_and_no_crash() -> None:
    assert plain("中文 🎉 ❤\ufe0f") == "中文 🎉 ❤"
    assert ink("中") == ink(BOX)


def test_the_plain_signs_are_needed() -> None:
    """When Pillow's font learns accents, they should be drawn."""
    assert ink("é") == ink("e")
    assert font(13).getlength("é") == font(13).getlength(BOX)


@pytest.mark.parametrize("width", [70, 110, 200])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_text_is_fitted_into_lines_and_the_rest_is_cut(width: int, most: int) -> None:
    text = "a large orange checkered circle at one side of it and so on for a while"
    lines = fit(text, 12, width, most)
    assert 1 <= len(lines) <= most
    assert all(font(12).getlength(line) <= width for line in lines)
    joined = " ".join(lines)
    if joined != text:
        assert joined.endswith("…")
        assert text.startswith(joined.removesuffix("…"))
        assert len(lines) == most
        following = text[len(joined) - 1 :].lstrip()[0]
        with_it = f"{lines[-1].removesuffix('…')}{following}…"
        assert font(12).getlength(with_it) > width - 6, "more would have fitted"


def test_a_short_text_is_left_whole_and_an_endless_word_is_cut() -> None:
    assert fit("a small moon", 12, 200, 2) == ["a small moon"]
    assert fit("", 12, 200, 2) == []
    assert fit("a b", 12, 200, 2) == ["a b"]
    (word,) = fit("x" * 100_000, 12, 100, 3)
    assert word == "x" * (len(word) - 1) + "…"
    assert 80 < font(12).getlength(word) <= 100
    assert fit(f"a {'x' * 40} b", 12, 100, 3) == ["a", word, "b"]


def test_nothing_is_written_beyond_a_small_canvas(tmp_path: Path) -> None:
    canvas = palette.paper(10, 10)
    palette.write(canvas, 0, 0, "much too long for this", 13)
    assert canvas.shape == (10, 10)
    assert (canvas != palette.PAPER).any()
    assert np.array_equal(palette.paper(2, 3), np.full((2, 3), palette.PAPER))
