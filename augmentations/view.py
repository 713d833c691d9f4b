"""A view as numbers: `View`, a distribution; `Drawn`, one draw from it; `Center`, the fixed view for evaluation.

No image and no tensor here. Whatever executes a `Drawn` (pil.py is the reference) has nothing left to draw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from random import Random
from typing import Any, Literal, NamedTuple

Interpolation = Literal["bicubic", "bilinear"]
ColorOp = Literal["brightness", "contrast", "saturation", "hue"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop tries as often
FIRST_DRAWS = 6 + 4 + 4 + 4 * CROP_ATTEMPTS  # what happens and sigma; order of colours; their factors; crop
NUM_DRAWS = FIRST_DRAWS + 3  # whether it turns; angle; zoom


class Drawn(NamedTuple):
    """One random view as a row of numbers. The operations run in the order of the fields, the turn before all others.

    top, left, height, width: the crop, in pixels of the source image. size: side of the square result, in pixels.
    jitter: the colour operations with their factors, in the order they run; empty for none. sigma: the blur's
    standard deviation in pixels of the result, 0 for none. threshold: values from it on are inverted; None for none.
    turn: degrees clockwise about the centre of the source image, whose frame stays, and the factor by which it grows
    in it; None for none. fill: R, G, B where the turned image does not reach.
    """

    top: int
    left: int
    height: int
    width: int
    size: int
    interpolation: Interpolation
    flip: bool
    jitter: tuple[tuple[ColorOp, float], ...]
    gray: bool
    sigma: float
    threshold: int | None
    turn: tuple[float, float] | None = None
    fill: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class View:
    """The distribution of one random view. Smaller images: `dataclasses.replace(view, size=32)`.

    size: side of the square result, in pixels.
    scale, ratio: of the crop; its share of the source's area, and width / height (drawn log-uniformly).
    flip, jitter, gray, blur, solarize, turn: probabilities.
    brightness, contrast, saturation: x gives a factor within max(0, 1 - x) .. 1 + x. hue: x gives a turn within
    -x .. x, where 1 is the whole circle.
    sigma: standard deviation of the blur, in pixels of the result. threshold: levels (of 0 .. 255) from it on are
    inverted. angle: x turns the source image by -x .. x degrees. zoom: (low, high) of the factor by which it grows
    with that, drawn log-uniformly. fill: R, G, B in 0 .. 255 of what then lies bare.
    mean, std: of the channels R, G, B in 0 .. 1; for `normalize`.

    Raises: ValueError that names the field, its value and the range.
    Source: torchvision's RandomResizedCrop, ColorJitter and RandomAffine (algorithms); facebookresearch/barlowtwins
    main.py @8e8d284 (defaults: its two views without what differs between them; order of operations).
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bicubic"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    threshold: int = 128
    turn: float = 0.0
    angle: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    fill: tuple[int, int, int] = (0, 0, 0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_common(self)
        for name in ("flip", "jitter", "gray", "blur", "solarize", "turn"):
            _check(self, name, _within(getattr(self, name), 0, 1), "a probability from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            _check(self, name, _within(getattr(self, name), 0, math.inf), "a number from 0 on")
        _check(self, "hue", _within(self.hue, 0, 0.5), "a number from 0 to 0.5")
        _check(self, "scale", _ascending(self.scale, 1) and self.scale[0] > 0, "(low, high), 0 < low <= high <= 1")
        _check(self, "ratio", _ascending(self.ratio, math.inf) and self.ratio[0] > 0, "(low, high), 0 < low <= high")
        _check(self, "sigma", _ascending(self.sigma, math.inf), "(low, high) in pixels, 0 <= low <= high")
        _check(self, "angle", _within(self.angle, 0, 180), "a number of degrees from 0 to 180")
        _check(self, "zoom", _ascending(self.zoom, math.inf) and self.zoom[0] > 0, "(low, high), 0 < low <= high")
        fill = self.fill
        good = isinstance(fill, tuple) and len(fill) == 3 and all(_is_int(x) and 0 <= x <= 255 for x in fill)
        _check(self, "fill", good, "a tuple of three integers from 0 to 255")
        _check(self, "threshold", _is_int(self.threshold) and 0 <= self.threshold <= 256, "an integer from 0 to 256")

    def draw(self, rng: Random, height: int, width: int) -> Drawn:
        """One view of an image of `height` x `width` pixels.

        Always takes NUM_DRAWS numbers and gives each its fixed meaning, whatever they turn out to be and whatever the
        fields say: another probability, another field or another image size does not shift what the rest is drawn from.
        The numbers of a new operation go to the end, for the same reason.
        """
        numbers = [rng.random() for _ in range(NUM_DRAWS)]
        flip, jitter, gray, blur, sigma, solarize = numbers[:6]
        turn, angle, zoom = numbers[FIRST_DRAWS:]
        factor = math.exp(_uniform(zoom, math.log(self.zoom[0]), math.log(self.zoom[1])))
        return Drawn(
            *self._crop(iter(numbers[14:FIRST_DRAWS]), height, width),
            size=self.size,
            interpolation=self.interpolation,
            flip=flip < self.flip,
            jitter=self._jitter(numbers[6:10], numbers[10:14]) if jitter < self.jitter else (),
            gray=gray < self.gray,
            sigma=_uniform(sigma, *self.sigma) if blur < self.blur else 0.0,
            threshold=self.threshold if solarize < self.solarize else None,
            turn=(_uniform(angle, -self.angle, self.angle), factor) if turn < self.turn else None,
            fill=self.fill,
        )

    def _jitter(self, keys: list[float], numbers: list[float]) -> tuple[tuple[ColorOp, float], ...]:
        """Factors within the fields' ranges, in an order uniform over the 24; strength 0 leaves the operation out."""
        ranges: tuple[tuple[ColorOp, float, float], ...] = (
            ("brightness", max(0.0, 1 - self.brightness), 1 + self.brightness),
            ("contrast", max(0.0, 1 - self.contrast), 1 + self.contrast),
            ("saturation", max(0.0, 1 - self.saturation), 1 + self.saturation),
            ("hue", -self.hue, self.hue),
        )
        factors = [(op, _uniform(number, low, high)) for number, (op, low, high) in zip(numbers, ranges)]
        order = sorted(range(4), key=keys.__getitem__)
        return tuple(factors[i] for i in order if ranges[i][1] < ranges[i][2])

    def _crop(self, numbers: Iterator[float], height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width): torchvision's algorithm; ten attempts, then the largest centred crop allowed."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area, ratio, top, left in zip(numbers, numbers, numbers, numbers):
            pixels = height * width * _uniform(area, *self.scale)
            aspect = math.exp(_uniform(ratio, low, high))
            w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class Center:
    """The view for evaluation: the short side resized to `resize` pixels (None: not resized), the centre cut out.

    size: side of the square result, pixels. mean, std: as in `View`.

    Raises: ValueError that names the field, its value and the range.
    Source: torchvision's Resize and CenterCrop; facebookresearch/barlowtwins evaluate.py @8e8d284 (defaults).
    """

    resize: int | None = 256
    size: int = 224
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_common(self)
        good = self.resize is None or (_is_int(self.resize) and self.resize >= self.size)
        _check(self, "resize", good, f"None or an integer number of pixels from size ({self.size}) on")


def _uniform(number: float, low: float, high: float) -> float:
    """`number`, uniform in 0 .. 1, moved to low .. high."""
    return low + (high - low) * number


def _check_common(view: View | Center) -> None:
    _check(view, "size", _is_int(view.size) and view.size >= 1, "an integer number of pixels from 1 on")
    _check(view, "interpolation", view.interpolation in ("bicubic", "bilinear"), '"bicubic" or "bilinear"')
    mean, std = view.mean, view.std
    good = isinstance(mean, tuple) and len(mean) == 3 and all(_within(x, -math.inf, math.inf) for x in mean)
    _check(view, "mean", good, "a tuple of three numbers")
    good = isinstance(std, tuple) and len(std) == 3 and all(_within(x, 0, math.inf) and x > 0 for x in std)
    _check(view, "std", good, "a tuple of three numbers above 0")


def _check(view: View | Center, name: str, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{type(view).__name__}({name}={getattr(view, name)!r}): {name} must be {expected}")


def _within(value: Any, low: float, high: float) -> bool:
    """Whether value is a finite number within low .. high."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def _ascending(pair: Any, high: float) -> bool:
    """Whether pair is a tuple of two numbers with 0 <= first <= second <= high."""
    good = isinstance(pair, tuple) and len(pair) == 2 and all(_within(x, 0, high) for x in pair)
    return good and pair[0] <= pair[1]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
