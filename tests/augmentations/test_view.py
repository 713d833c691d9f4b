"""Draws of a `View` against torchvision's random transforms, by distribution; what does not shift; what is refused."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torchvision import transforms

from augmentations import Center, Drawn, View, sample_random

N = 3_000
SIZES = [(375, 500), (75, 56), (411, 120), (120, 411), (64, 64)]


def draws(view: View, height: int = 375, width: int = 500, n: int = N) -> list[Drawn]:
    return [view.draw(sample_random(1, 0, i, 0), height, width) for i in range(n)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of two samples of N, in units of its 1e-4 critical value: below 1 means alike."""
    assert len(a) == len(b) == N
    at = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(np.sort(a), at, "right") - np.searchsorted(np.sort(b), at, "right")).max() / N
    return gap / (2.23 * (2 / N) ** 0.5)


def crop_statistics(crops: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """crops: (N, 4), top, left, height, width."""
    top, left, h, w = crops.T.astype(float)
    share = (top + 0.5) / (height - h + 1), (left + 0.5) / (width - w + 1)
    return {"area": h * w, "ratio": w / h, "top": top, "left": left, "top share": share[0], "left share": share[1]}


@pytest.mark.parametrize(
    ("height", "width", "scale"), [*((*size, (0.08, 1.0)) for size in SIZES), (375, 500, (0.2, 1.0))]
)
def test_crops_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    view = View(scale=scale)
    ours = np.array([drawn[:4] for drawn in draws(view, height, width)])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    get_params = transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(image, list(scale), list(view.ratio)) for _ in range(N)])
    a, b = crop_statistics(ours, height, width), crop_statistics(theirs, height, width)
    far = {name: distance(a[name], b[name]) for name in a if distance(a[name], b[name]) >= 1}
    assert not far


def test_the_distance_tells_wrong_crops_apart() -> None:
    """The test above would fail on a linear ratio, on a uniform side instead of area, and on another smallest area."""
    ours = np.array([drawn[:4] for drawn in draws(View(), 400, 400)])
    statistics = crop_statistics(ours, 400, 400)
    rng = np.random.default_rng(0)
    assert distance(statistics["ratio"], rng.uniform(3 / 4, 4 / 3, N)) > 1
    assert distance(statistics["area"] ** 0.5, 400 * rng.uniform(0.08**0.5, 1, N)) > 1
    other = np.array([drawn[:4] for drawn in draws(View(scale=(0.2, 1.0)), 400, 400)])
    assert distance(statistics["area"], crop_statistics(other, 400, 400)["area"]) > 1


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (411, 120), (120, 411), (1, 300), (300, 1)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (1.2, 1.9)])
def test_where_no_attempt_fits_the_crop_is_torchvisions(height: int, width: int, ratio: tuple[float, float]) -> None:
    view = View(scale=(1.0, 1.0), ratio=ratio)  # the whole area, yet of another shape than the image: nothing fits
    crops = {view.draw(Random(i), height, width)[:4] for i in range(20)}
    get_params = transforms.RandomResizedCrop.get_params
    assert crops == {get_params(torch.empty(3, height, width), list(view.scale), list(ratio))}


def test_a_crop_is_never_empty() -> None:
    assert View(scale=(1.0, 1.0), ratio=(0.01, 0.02)).draw(Random(0), 1, 100)[:4] == (0, 49, 1, 1)
    assert {View().draw(Random(i), 1, 1)[:4] for i in range(100)} == {(0, 0, 1, 1)}


@pytest.mark.parametrize("strengths", [(0.4, 0.4, 0.2, 0.1), (0.8, 0.8, 0.8, 0.2), (1.5, 0.3, 2.0, 0.5)])
def test_colour_factors_are_distributed_as_torchvisions(strengths: tuple[float, float, float, float]) -> None:
    names = ("brightness", "contrast", "saturation", "hue")
    ours = [dict(drawn.jitter) for drawn in draws(replace(View(jitter=1.0), **dict(zip(names, strengths))))]
    theirs = transforms.ColorJitter(*strengths)
    torch.manual_seed(0)
    params = [
        theirs.get_params(theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue)[1:] for _ in range(N)
    ]
    for name, reference in zip(names, np.array(params).T):
        factors = np.array([factors[name] for factors in ours])
        assert distance(factors, reference) < 1, name
        low, high = getattr(theirs, name)
        assert low <= factors.min() <= factors.max() <= high


def test_the_order_of_the_colours_is_uniform_and_says_nothing_about_the_factors() -> None:
    drawn = [d.jitter for d in draws(View(jitter=1.0))]
    orders = Counter(tuple(op for op, _ in jitter) for jitter in drawn)
    assert len(orders) == 24
    assert sum((count - N / 24) ** 2 / (N / 24) for count in orders.values()) < 60  # 23 degrees of freedom, 4e-5
    first = [jitter[0][0] == "brightness" for jitter in drawn]
    factor = [dict(jitter)["brightness"] for jitter in drawn]
    assert abs(np.corrcoef(first, factor)[0, 1]) < 4 / N**0.5


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_probabilities(probability: float) -> None:
    view = View(**dict.fromkeys(("flip", "jitter", "gray", "blur", "solarize", "turn"), probability))
    drawn = draws(view)
    happened = np.array(
        [(d.flip, bool(d.jitter), d.gray, d.sigma > 0, d.threshold is not None, d.turn is not None) for d in drawn]
    )
    spread = (N * probability * (1 - probability)) ** 0.5
    assert (np.abs(happened.sum(0) - N * probability) <= 4.5 * spread).all()
    if 0 < probability < 1:  # independent of one another
        assert np.abs(np.corrcoef(happened.T) - np.eye(6)).max() < 4.5 / N**0.5


def test_sigma_is_uniform_and_the_threshold_is_the_fields() -> None:
    drawn = draws(View(blur=1.0, sigma=(0.3, 1.7), solarize=1.0, threshold=77))
    assert distance(np.array([d.sigma for d in drawn]), np.random.default_rng(0).uniform(0.3, 1.7, N)) < 1
    assert {d.threshold for d in drawn} == {77}


def test_turns_are_distributed_as_torchvisions_random_affine() -> None:
    drawn = draws(View(turn=1.0, angle=12.0, zoom=(0.8, 1.1), fill=(255, 255, 255)))
    torch.manual_seed(0)
    params = [transforms.RandomAffine.get_params([-12.0, 12.0], None, None, None, [9, 9])[0] for _ in range(N)]
    assert distance(np.array([d.turn[0] for d in drawn]), np.array(params)) < 1
    # torchvision's scale is uniform; ours is so in its logarithm, as a crop's ratio is: twice and half are as likely.
    logs = np.random.default_rng(0).uniform(np.log(0.8), np.log(1.1), N)
    assert distance(np.array([np.log(d.turn[1]) for d in drawn]), logs) < 1
    assert {d.fill for d in drawn} == {(255, 255, 255)}


def test_strength_zero_leaves_the_operation_out() -> None:
    """As torchvision does. It matters for hue: a turn of 0 still goes through HSV, which rounds."""
    assert draws(View(jitter=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0), n=1)[0].jitter == ()
    drawn = draws(View(jitter=1.0, brightness=0.0, hue=0.0), n=50)
    assert all(sorted(dict(d.jitter)) == ["contrast", "saturation"] for d in drawn)


class Counting:
    """Counts `random()` and has nothing else: Python keeps no other method's sequence from version to version."""

    def __init__(self, seed: int) -> None:
        self.numbers = Random(seed)
        self.count = 0

    def random(self) -> float:
        self.count += 1
        return self.numbers.random()


def test_as_many_numbers_are_drawn_whatever_comes_out() -> None:
    fields = [View(), View(jitter=0.0, flip=0.0), View(blur=1.0, solarize=1.0, hue=0.0), View(scale=(1.0, 1.0))]
    counts = set()
    for i, view in enumerate(fields):
        for height, width in [*SIZES, (1, 1), (10, 1000)]:
            rng = Counting(i)
            view.draw(rng, height, width)
            counts.add(rng.count)
    assert len(counts) == 1


def test_one_field_does_not_shift_what_the_others_draw() -> None:
    base = View(jitter=0.5, gray=0.5, blur=0.5, solarize=0.5, turn=0.5, angle=9.0)
    for name in ("flip", "jitter", "gray", "blur", "solarize", "turn"):
        for a, b in zip(draws(base, n=200), draws(replace(base, **{name: 1.0}), n=200)):
            field = {"blur": "sigma", "solarize": "threshold"}.get(name, name)
            assert b == a._replace(**{field: getattr(b, field)})
            assert not getattr(a, field) or getattr(a, field) == getattr(b, field)
    for a, b in zip(draws(base, n=200), draws(base, 120, 411, n=200)):
        assert a[4:] == b[4:]  # another image moves the crop alone


def test_a_draw_holds_plain_values() -> None:
    for drawn in draws(View(blur=1.0, solarize=1.0, turn=1.0, angle=9.0), n=20):
        assert [type(value) for value in drawn] == [int] * 5 + [str, bool, tuple, bool, float, int, tuple, tuple]
        assert all(type(op) is str and type(factor) is float for op, factor in drawn.jitter)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("turn", 1.5),
        ("angle", -1.0),
        ("zoom", (0.0, 1.0)),
        ("fill", (0, 0)),
        ("fill", (0, 0, 256)),
        ("size", 0),
        ("size", 224.0),
        ("size", True),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.2)),
        ("scale", (0.08, 1.5)),
        ("scale", 0.08),
        ("scale", (0.1, 0.5, 1.0)),
        ("ratio", (0.0, 1.0)),
        ("ratio", (2.0, 1.0)),
        ("ratio", (0.5, float("inf"))),
        ("interpolation", "nearest"),
        ("interpolation", 3),
        ("flip", -0.1),
        ("jitter", 1.1),
        ("gray", float("nan")),
        ("blur", "0.5"),
        ("solarize", None),
        ("brightness", -0.4),
        ("contrast", float("inf")),
        ("saturation", (0.5, 1.5)),
        ("hue", 0.51),
        ("sigma", (-0.1, 2.0)),
        ("sigma", (2.0, 0.1)),
        ("threshold", 257),
        ("threshold", -1),
        ("threshold", 0.5),
        ("mean", (0.5, 0.5)),
        ("mean", 0.5),
        ("std", (0.2, 0.2, 0.0)),
        ("std", (0.2, 0.2, "0.2")),
    ],
)
def test_a_wrong_view_is_refused_naming_field_value_and_range(field: str, value: object) -> None:
    with pytest.raises(ValueError) as error:
        View(**{field: value})
    assert f"View({field}={value!r}): {field} must be " in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("resize", 100), ("resize", 256.0), ("size", -1), ("size", 300), ("std", ()), ("mean", None)]
)
def test_a_wrong_evaluation_view_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"Center\((resize|size|std|mean)=.* must be "):
        Center(**{field: value})


def test_the_ends_of_the_ranges_are_accepted() -> None:
    View(scale=(1.0, 1.0), ratio=(1.0, 1.0), hue=0.5, sigma=(0.0, 0.0), threshold=256, flip=1, gray=0, size=1)
    Center(resize=None, size=32)
    Center(resize=224)
