"""The pixels of a scene: signed distances to circles and lines, two-shaded surfaces, light and grain.

Fields of several pictures at once. Pixels take only + - * /, square root, floor, min and max, which IEEE arithmetic
fixes to the bit; every step writes float32 and no step sums over pixels.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .shapes_scene import SHAPES, SIDE, Scene, Weave

Field = np.ndarray  # (n, SIDE, SIDE) float32: a number at each pixel of n pictures


# Shapes: signed distance to the outline, negative inside, in units of the shape's radius; y points down. Union is min,
# intersection max, so that every outline is made of circles and lines.
def _disk(x: Field, y: Field, radius: float) -> Field:
    return np.sqrt(x * x + y * y) - radius


def _box(x: Field, y: Field, width: float, height: float) -> Field:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _wedge(x: Field, y: Field, inner: float) -> Field:
    """An equilateral triangle pointing up; `inner` is the radius of its inscribed circle."""
    return np.maximum(y, np.abs(x) * 0.8660254 - y * 0.5) - inner


def _fold(x: Field, y: Field) -> tuple[Field, Field]:
    """The points mirrored into one of five equal sectors: the one around the upward axis, along which y then grows."""
    x, y = np.abs(x), -y
    for cosine in (0.80901699, -0.80901699):
        over = 2 * np.maximum(cosine * x - 0.58778525 * y, 0)
        x, y = x - over * cosine, y + over * 0.58778525
    return np.abs(x), y


def _arrow(x: Field, y: Field) -> Field:
    return np.minimum(_wedge(x, y + 0.27, 0.34), _box(x, y - 0.45, 0.24, 0.48))


def _cross(x: Field, y: Field) -> Field:
    return np.minimum(_box(x, y, 0.95, 0.29), _box(x, y, 0.29, 0.95))


def _flower(x: Field, y: Field) -> Field:
    x, y = _fold(x, y)
    return _disk(x, y - 0.56, 0.4)


def _heart(x: Field, y: Field) -> Field:
    x, y = np.abs(x), y - 0.1
    diamond = (x + np.abs(y)) * 0.70710678 - 0.56
    return np.minimum(diamond, _disk(x - 0.396, y + 0.396, 0.56))


def _moon(x: Field, y: Field) -> Field:
    return np.maximum(_disk(x - 0.22, y, 0.98), 0.8 - _disk(x - 0.68, y, 0))


def _star(x: Field, y: Field) -> Field:
    x, y = _fold(x, y)
    return x * 0.9288 + (y - 1.05) * 0.3705  # the line from a tip at radius 1.05 to a dent at 0.46


OUTLINES: dict[str, Callable[[Field, Field], Field]] = {
    "arrow": _arrow,
    "circle": lambda x, y: _disk(x, y, 0.88),
    "cross": _cross,
    "flower": _flower,
    "heart": _heart,
    "moon": _moon,
    "ring": lambda x, y: np.abs(_disk(x, y, 0.7)) - 0.22,
    "square": lambda x, y: _box(x, y, 0.76, 0.76),
    "star": _star,
    "triangle": lambda x, y: _wedge(x, y - 0.1, 0.53),
}

# Patterns: signed distance, in periods, to where the second shade shows, at a point a and b past the nearest edge of
# its stripe along either axis (-1/4..1/4). Plain and solid surfaces have no second shade.
PATTERN_EDGES: dict[str, Callable[[Field, Field], Field]] = {
    "striped": lambda a, b: a,
    "dotted": lambda a, b: _disk(a + 0.25, b + 0.25, 0.3),
    "checked": lambda a, b: np.maximum(np.minimum(a, b), -np.maximum(a, b)),
}

_X = np.arange(SIDE, dtype=np.float32)[None, None, :] - (SIDE - 1) / 2  # (1, 1, SIDE): x of pixel centres
_Y = _X.swapaxes(1, 2)


def _column(values: Iterable[float]) -> Field:
    """One number a picture, (n, 1, 1), to compute with fields."""
    return np.array(list(values), dtype=np.float32)[:, None, None]


def _turned(x: Field, y: Field, turns: Sequence[tuple[float, float]]) -> tuple[Field, Field]:
    """The coordinates along two axes that are turned, one angle a picture."""
    cosine, sine = _column(c for c, _ in turns), _column(s for _, s in turns)
    return cosine * x + sine * y, cosine * y - sine * x


def _cover(distance: Field) -> Field:
    """How much of each pixel lies inside an outline, 0..1, by signed distance in pixels: the antialiasing."""
    return np.clip(0.5 - distance, 0, 1)


def _over(below: np.ndarray, above: np.ndarray, cover: Field) -> np.ndarray:
    """`above` laid over `below`, (n, 3, height, width), where `cover` is 1."""
    mixed = cover[:, None] * (above - below)
    mixed += below
    return mixed


def _second_shade(weaves: Sequence[Weave]) -> Field:
    """How much of each pixel has the second shade of its surface, 0..1."""
    period = _column(weave.period for weave in weaves)
    cover = np.zeros((len(weaves), SIDE, SIDE), dtype=np.float32)
    for pattern, edge in PATTERN_EDGES.items():
        rows = [row for row, weave in enumerate(weaves) if weave.pattern == pattern]
        u, v = _turned(_X / period[rows], _Y / period[rows], [weaves[row].turn for row in rows])
        u += _column(weaves[row].offset[0] for row in rows)
        v += _column(weaves[row].offset[1] for row in rows)
        a, b = np.abs(u - np.floor(u) - 0.5) - 0.25, np.abs(v - np.floor(v) - 0.5) - 0.25
        cover[rows] = _cover(edge(a, b) * period[rows])
    return cover


def _surface(weaves: Sequence[Weave]) -> np.ndarray:
    """Each picture full of one weave, (n, 3, SIDE, SIDE) float32."""
    shades = np.array([weave.shades for weave in weaves], dtype=np.float32)[..., None, None]  # (n, 2, 3, 1, 1)
    return _over(shades[:, 0], shades[:, 1], _second_shade(weaves))


def _grain(seeds: Iterable[int]) -> Field:
    """Noise in -1..1, one number a pixel, by whole-number mixing (the finaliser of MurmurHash3)."""
    mixed = np.arange(1, SIDE * SIDE + 1, dtype=np.uint32).reshape(SIDE, SIDE) * np.uint32(0x9E3779B1)
    mixed = mixed ^ np.array(list(seeds), dtype=np.uint32)[:, None, None]
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    return (mixed >> np.uint32(16)).astype(np.float32) / 32768 - 1


def outline(scenes: Sequence[Scene]) -> Field:
    """Signed distance to each scene's shape in pixels, (n, SIDE, SIDE) float32, negative inside."""
    radius = _column(scene.radius for scene in scenes)
    x, y = _X - _column(scene.x for scene in scenes), _Y - _column(scene.y for scene in scenes)
    x, y = _turned(x / radius, y / radius, [scene.turn for scene in scenes])
    for shape in SHAPES:
        rows = [row for row, scene in enumerate(scenes) if scene.shape == shape]
        x[rows] = OUTLINES[shape](x[rows], y[rows])
    return x * radius


def _scatter(picture: np.ndarray, scenes: Sequence[Scene]) -> None:
    """Lays confetti, short thick lines, on pictures (n, 3, SIDE, SIDE), in place, each in a window that holds it."""
    scraps = [(row, *scrap) for row, scene in enumerate(scenes) for scrap in scene.confetti]
    rows, xs, ys, along, across, radius, *_ = zip(*scraps)
    lefts, tops = ([max(0, int(middle + SIDE / 2) - 8) for middle in middles] for middles in (xs, ys))
    dx = _X[:, :, :16] + _column(lefts) - _column(xs)  # (m, 1, 16)
    dy = _Y[:, :16] + _column(tops) - _column(ys)
    along, across = _column(along), _column(across)
    part = np.clip((dx * along + dy * across) / (along * along + across * across), -1, 1)
    cover = _cover(_disk(dx - part * along, dy - part * across, 0) - _column(radius))
    colours = np.array([scrap[6:] for scrap in scraps], dtype=np.float32)[:, :, None, None]
    for index, (row, left, top) in enumerate(zip(rows, lefts, tops)):
        window = picture[row, :, top : top + 16, left : left + 16]
        height, width = window.shape[1:]
        window += cover[index, :height, :width] * (colours[index] - window)


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """The pictures of some scenes, (n, SIDE, SIDE, 3) uint8."""
    picture = _surface([scene.ground for scene in scenes])
    _scatter(picture, scenes)
    distance = outline(scenes)
    picture *= 1 - 0.3 * np.clip(1 - distance / 6, 0, 1)[:, None]  # a soft shadow round the shape
    picture = _over(picture, _surface([scene.fill for scene in scenes]), _cover(distance))
    light = 1 + _X * _column(scene.light[0] for scene in scenes) + _Y * _column(scene.light[1] for scene in scenes)
    picture *= light[:, None]
    picture += 5 * _grain(scene.grain for scene in scenes)[:, None]
    picture += 0.5  # to the nearest whole number, as the conversion cuts
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8).transpose(0, 2, 3, 1)
