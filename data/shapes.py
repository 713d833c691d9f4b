"""Captioned pictures of shapes that the project draws itself: a set to learn from with nothing to download.

Each 64 x 64 picture shows one of ten shapes, the label, in one of nine colours, four fills and three sizes, tilted, at
one of six places, on a patterned background with confetti, uneven light and grain. Everything but the shape is drawn
independently of the label, so mean colour and fixed pixels say little about it, while crop, flip, colour jitter and
grey keep it. Shape and background always differ in brightness, so that a grey view still shows the shape; the shape is
large and the background's pattern faint, so that what two views of a picture share beyond colour is mostly the label.

One sentence names size, colour, fill, shape, place, and the pattern and colour of the background. It stays true under a
horizontal flip because places are "in an upper corner" or "off to one side", never left or right.

Picture i is a function of (seed, split, i): draws are Python's `random.random`, whose sequence is guaranteed; pixels
take only + - * /, square root, floor, min and max, which IEEE arithmetic fixes to the bit.

    python -m data.shapes DIR [--train N --val N --seed S]
"""

import csv
import hashlib
import math
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

Split = Literal["train", "val"]
Field = np.ndarray  # (n, SIDE, SIDE) float32: a number at each pixel of n pictures

SIDE = 64  # pixels
TILT = 20.0  # degrees either way; well below 45, where a square would be a diamond
COLOURS = {
    "red": (214, 38, 40),
    "orange": (242, 120, 20),
    "yellow": (248, 222, 52),
    "green": (44, 158, 66),
    "blue": (44, 92, 214),
    "purple": (136, 58, 176),
    "pink": (246, 132, 182),
    "white": (238, 238, 238),
    "black": (38, 38, 44),
}
SIZES = {"small": (13.0, 15.0), "medium": (16.0, 19.0), "large": (20.0, 24.0)}  # radius in pixels
ROWS = {"upper": (-1.0, -0.5), "middle": (-0.3, 0.3), "lower": (0.5, 1.0)}  # centre, as a part of the room there is
COLUMNS = {"central": (-0.3, 0.3), "side": (0.5, 1.0)}
FILLS = ("solid",) * 9 + ("striped", "dotted", "checked")  # three quarters solid, three quarters plain: drawn equally
PATTERNS = ("plain",) * 9 + ("striped", "dotted", "checked")

SYNONYMS = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "checkered"),
    "upper central": ("at the top", "near the top"),
    "upper side": ("in an upper corner",),
    "middle central": ("in the center", "in the middle"),
    "middle side": ("off to one side", "at one side"),
    "lower central": ("at the bottom", "near the bottom"),
    "lower side": ("in a lower corner",),
}
SENTENCES = (
    "a {size} {colour} {fill} {shape} {place} on a {pattern} {ground} background",
    "a {size} {fill} {colour} {shape} on a {pattern} {ground} background, {place}",
    "a {pattern} {ground} background with a {size} {colour} {fill} {shape} {place}",
    "{place} of a {pattern} {ground} picture, a {size} {colour} {fill} {shape}",
    "there is a {size} {fill} {colour} {shape} {place}, the background is {pattern} and {ground}",
)


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


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
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


@dataclass(frozen=True)
class Weave:
    """A surface of two shades of one colour."""

    pattern: str
    colour: str
    shades: tuple[tuple[float, ...], tuple[float, ...]]  # red, green, blue, 0..255
    period: float  # pixels
    turn: tuple[float, float]  # cosine, sine
    offset: tuple[float, float]  # periods


@dataclass(frozen=True)
class Scene:
    """All that one picture shows; lengths in pixels, from the middle of the picture, y down."""

    shape: str
    size: str
    place: str
    caption: str
    x: float
    y: float
    radius: float
    turn: tuple[float, float]  # cosine, sine
    fill: Weave
    ground: Weave
    confetti: tuple[tuple[float, ...], ...]  # x, y, half length along x, along y, radius, red, green, blue
    light: tuple[float, float]  # brightness gained in one pixel along x and y, relative
    grain: int  # the noise's own seed, 32 bits


def scene(seed: int, split: str, index: int) -> Scene:
    """The scene of one picture; shapes take turns over `index`, so that classes are equally frequent."""
    key = hashlib.sha256(f"shapes {seed} {split} {index}".encode()).digest()
    draw = random.Random(int.from_bytes(key[:8], "big")).random  # the one sequence that Python promises to keep

    def between(low: float, high: float) -> float:
        return low + (high - low) * draw()

    def one(options: Iterable[str]) -> str:
        options = tuple(options)
        return options[int(draw() * len(options))]

    def turn(degrees: float) -> tuple[float, float]:
        angle = math.radians(between(-degrees, degrees))
        return round(math.cos(angle), 6), round(math.sin(angle), 6)  # rounded: C libraries differ in the last bit

    def weave(pattern: str, colour: str, period: float, contrast: float) -> Weave:
        base = tuple(channel + between(-10, 10) for channel in COLOURS[colour])
        other = 255.0 if brightness(colour) < 0.4 else 0.0
        shades = (base, tuple(channel + contrast * (other - channel) for channel in base))
        return Weave(pattern, colour, shades, period, turn(90), (draw(), draw()))

    shape, size, row, column = tuple(SHAPES)[index % len(SHAPES)], one(SIZES), one(ROWS), one(COLUMNS)
    colour = one(COLOURS)
    ground = one(name for name in COLOURS if abs(brightness(name) - brightness(colour)) > 0.25)
    radius = between(*SIZES[size])
    room = SIDE / 2 + 1 - radius
    scraps = []
    for _ in range(int(between(1, 6))):
        length, (along, across) = between(0.1, 3.5), turn(90)
        middle = (between(-0.5, 0.5) * SIDE, between(-0.5, 0.5) * SIDE)
        scraps.append((*middle, length * along, length * across, between(1, 2), *COLOURS[one(COLOURS)]))
    surface, pattern = one(FILLS), one(PATTERNS)
    parts = {"size": size, "fill": surface, "pattern": pattern, "place": f"{row} {column}"}
    words = {part: one(SYNONYMS.get(word, (word,))) for part, word in parts.items()}
    return Scene(
        shape=shape,
        size=size,
        place=parts["place"],
        caption=one(SENTENCES).format(shape=shape, colour=colour, ground=ground, **words),
        x=room * between(*COLUMNS[column]) * (1 if draw() < 0.5 else -1),
        y=room * between(*ROWS[row]),
        radius=radius,
        turn=turn(TILT),
        fill=weave(surface, colour, between(6, 9), 0.26),
        ground=weave(pattern, ground, between(8, 13), 0.14),
        confetti=tuple(scraps),
        light=(between(-0.003, 0.003), between(-0.003, 0.003)),
        grain=int(draw() * 2**32),
    )


def brightness(colour: str) -> float:
    """What a grey copy keeps of a named colour, 0..1 (the luma of ITU-R BT.601, as Pillow has it)."""
    red, green, blue = COLOURS[colour]
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


# Rendering. Fields of several pictures at once; every step writes float32 and no step sums over pixels.
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
    for shape, signed in SHAPES.items():
        rows = [row for row, scene in enumerate(scenes) if scene.shape == shape]
        x[rows] = signed(x[rows], y[rows])
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


class ShapesSet:
    """An image set in memory: `num_images` pictures of one split, their labels and captions.

    Raises: ValueError for another split, a count below 1 or a seed that is no whole number.
    """

    classes: tuple[str, ...] = tuple(SHAPES)

    def __init__(self, split: Split, num_images: int, seed: int = 0):
        if split not in get_args(Split):
            raise ValueError(f"split {split!r}: there are {', '.join(get_args(Split))}")
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images {num_images!r}: a whole number from 1 up")
        if type(seed) is not int:
            raise ValueError(f"seed {seed!r}: a whole number")
        self.split = split
        self.scenes = tuple(scene(seed, split, index) for index in range(num_images))
        self.labels = np.array([self.classes.index(scene.shape) for scene in self.scenes], dtype=np.int64)  # (N,)
        self.captions = tuple(scene.caption for scene in self.scenes)
        self.pixels = np.empty((num_images, SIDE, SIDE, 3), dtype=np.uint8)
        for start in range(0, num_images, 20):  # as many as the processor's cache holds
            self.pixels[start : start + 20] = render(self.scenes[start : start + 20])

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> Image.Image:
        """The picture, RGB, SIDE x SIDE."""
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        """What a message calls the picture, for example "shapes/train/000012 (red striped star)"."""
        scene = self.scenes[index]
        return f"shapes/{self.split}/{index:06d} ({scene.fill.colour} {scene.fill.pattern} {scene.shape})"


def write(folder: Path, train: int = 4000, val: int = 1000, seed: int = 0) -> None:
    """Writes both splits for other tools: DIR/train/star/000008.png, its caption in 000008.txt, DIR/train/pairs.csv.

    Args:
        folder: where to write; must be empty or not yet there
        train: pictures to train on
        val: pictures to validate on
        seed: another seed gives other pictures

    Raises: ValueError for a folder that holds something, or for what `ShapesSet` refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not empty; name a new folder, nothing is overwritten")
    for images in [ShapesSet("train", train, seed), ShapesSet("val", val, seed)]:
        for name in images.classes:
            (folder / images.split / name).mkdir(parents=True)
        pairs = [("image", "caption")]
        for index, caption in enumerate(images.captions):
            path = f"{images.scenes[index].shape}/{index:06d}.png"
            images.image(index).save(folder / images.split / path)
            (folder / images.split / path).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
            pairs.append((path, caption))
        with (folder / images.split / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(pairs)


if __name__ == "__main__":
    import tyro

    try:
        tyro.cli(write, config=(tyro.conf.PositionalRequiredArgs,))
    except ValueError as error:
        print(f"data.shapes: {error}", file=sys.stderr)
        sys.exit(2)
