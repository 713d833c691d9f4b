"""Text as pictures can hold it: in signs that Pillow's built-in font has, and in lines that fit."""

import unicodedata
from bisect import bisect_right
from functools import cache

from PIL import Image, ImageDraw, ImageFont

# Signs that Pillow's built-in font lacks and would draw as boxes: it has ASCII, curly quotes and little more.
_PLAIN = {"×": "x", "−": "-", "–": "-", "—": "-", "‐": "-", "≤": "<=", "≥": ">=", "•": "·", "÷": "/"}
_PLAIN |= {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in scalable font, `size` in pixels."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded


def plain(text: str) -> str:
    """`text` in signs of the font, where there are any near: without accents, on one line, single-spaced.

    Other scripts and emoji have none near and are drawn as one box a sign.
    """
    return " ".join("".join(_plain_sign(sign) for sign in text).split())


@cache
def _plain_sign(sign: str) -> str:
    if sign.isascii():
        return sign if sign.isprintable() else " "
    if sign.isspace():
        return " "
    if unicodedata.category(sign) in ("Mn", "Cf", "Cc", "Cs"):  # accents alone, joiners, controls, half characters
        return ""
    if sign in _PLAIN or _has(sign):
        return _PLAIN.get(sign, sign)
    bare = "".join(part for part in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(part))
    return bare if bare and all(map(_has, bare)) else sign


def _has(sign: str) -> bool:
    """Whether the font has a glyph for it. What it has none for is drawn like U+FFFF, which no font has."""
    return _drawn(sign) != _drawn("\uffff")


@cache
def _drawn(sign: str) -> bytes:
    image = Image.new("L", (24, 24))
    ImageDraw.Draw(image).text((4, 4), sign, fill=255, font=font(13))
    return image.tobytes()


def fit(text: str, size: int, width: int, most: int) -> list[str]:
    """`text` in at most `most` lines of at most `width` pixels.

    What is left over is cut, and so is a word that is longer than a line; an ellipsis says so.
    """
    face = font(size)
    words = plain(text[:2000]).split()  # no more can be drawn, and measuring takes time
    lines: list[str] = []
    while words and len(lines) < most:
        line = words.pop(0)
        while words and face.getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    if words:
        lines[-1] = f"{lines[-1]} {' '.join(words)}"
    return [_cut(line, face, width) for line in lines]


def _cut(line: str, face: ImageFont.FreeTypeFont, width: int) -> str:
    if face.getlength(line) <= width:
        return line
    fits = bisect_right(range(len(line)), width, key=lambda end: face.getlength(f"{line[:end].rstrip()}…"))
    return f"{line[: max(0, fits - 1)].rstrip()}…"


def wrap(text: str, size: int, width: int) -> list[str]:
    """`text` broken into lines of at most `width` pixels: at " · " where possible, else at spaces."""
    face = font(size)
    for separator in (" · ", " "):
        lines: list[str] = []
        for part in plain(text).split(separator):
            joined = f"{lines[-1]}{separator}{part}" if lines else part
            if lines and face.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(part)
        if all(face.getlength(line) <= width for line in lines):
            break
    return lines
