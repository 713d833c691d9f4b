"""`finish` against `render` and `normalize`, from the same crop and the same `Drawn`: Pillow's levels, to the bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augmentations import (
    BARLOW_TWINS,
    CIFAR_SIMCLR,
    CIFAR_VICREG,
    CLIP,
    REST,
    SIMCLR,
    Drawn,
    Rest,
    View,
    finish,
    normalize,
    render,
    rest_of,
    sample_random,
)
from tests.augmentations.pictures import picture, tensor

SIZE = 40
PLAIN = Drawn(0, 0, SIZE, SIZE, SIZE, "bicubic", False, (), False, 0.0, None)


def rest(drawn: list[Drawn]) -> Rest:
    return Rest.of(torch.tensor([rest_of(d) for d in drawn], dtype=torch.float32))


def both(images: list[Image.Image], drawn: list[Drawn], view: View) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ours and Pillow's, normalised; the crop is Pillow's for both."""
    crops = [
        render(image, d._replace(jitter=(), gray=False, sigma=0.0, threshold=None)) for image, d in zip(images, drawn)
    ]
    pixels = torch.stack(crops)
    theirs = torch.stack([render(image, d) for image, d in zip(images, drawn)])
    return finish(pixels, rest(drawn), view), normalize(theirs, view.mean, view.std)


def same(drawn: list[Drawn], view: View | None = None, height: int = SIZE, width: int = SIZE) -> bool:
    return torch.equal(*both([picture(i, height, width) for i in range(len(drawn))], drawn, view or View(size=SIZE)))


FACTORS = [0.0, 0.2, 0.61, 0.9999, 1.0, 1.0001, 1.4, 1.8, 3.0]


@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation"])
def test_a_blend_is_pillows(op: Any) -> None:
    assert same([PLAIN._replace(jitter=((op, factor),)) for factor in FACTORS])


def test_hue_is_pillows() -> None:
    assert same([PLAIN._replace(jitter=(("hue", turn),)) for turn in np.linspace(-0.5, 0.5, 40).tolist()])


def test_hue_of_a_million_colours_is_pillows() -> None:
    steps = np.arange(0, 256, 2.5).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(103 * 103, 103, 3)[: 102 * 102 + 300]
    side = 1024
    square = Image.fromarray(np.resize(colours, (side, side, 3)))
    drawn = Drawn(0, 0, side, side, side, "bicubic", False, (("hue", 0.0),), False, 0.0, None)
    for turn in (0.0, 0.1, -0.37):
        assert torch.equal(*both([square], [drawn._replace(jitter=(("hue", turn),))], View(size=side)))


def test_a_hue_just_below_an_integer_is_cut_before_float32_rounds_it_up() -> None:
    turn = np.nextafter(26 / 255, 0).item()
    assert int(turn * 255) == 25
    assert int(np.float32(turn) * np.float32(255)) == 26
    assert same([PLAIN._replace(jitter=(("hue", turn),))])


def test_gray_is_pillows() -> None:
    assert same([PLAIN._replace(gray=True), PLAIN])


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarize_is_pillows(threshold: int) -> None:
    assert same([PLAIN._replace(threshold=threshold), PLAIN])


@pytest.mark.parametrize("sigmas", [(0.01, 0.1, 0.5), (1.0, 1.7, 2.0), (0.3, 5.0, 14.0)])
def test_blur_is_pillows(sigmas: tuple[float, ...]) -> None:
    assert same([PLAIN._replace(sigma=sigma) for sigma in (0.0, *sigmas)])


def test_blur_of_an_image_smaller_than_its_box() -> None:
    drawn = [Drawn(0, 0, 3, 3, 3, "bicubic", False, (), False, sigma, None) for sigma in (0.4, 2.0, 20.0)]
    assert same(drawn, View(size=3), 3, 3)


def test_mean_of_a_large_image_is_exact() -> None:
    """White: the sum of levels is beyond 2**24, where float32 has no odd numbers."""
    side = 300
    levels = np.full((side, side, 3), 255, np.uint8)
    levels[0, : side // 2 + 1] = 0  # the mean is 254.5 and a little less
    levels[1:150, :] = 254
    drawn = Drawn(0, 0, side, side, side, "bicubic", False, (("contrast", 0.0),), False, 0.0, None)
    assert torch.equal(*both([Image.fromarray(levels)], [drawn], View(size=side)))


def test_two_rows_in_one_batch_run_in_opposite_orders() -> None:
    jitter = (("brightness", 1.9), ("contrast", 0.3), ("hue", 0.1), ("saturation", 1.7))
    drawn = [PLAIN._replace(jitter=jitter), PLAIN._replace(jitter=jitter[::-1])]
    images = [picture(0, SIZE, SIZE)] * 2
    ours, theirs = both(images, drawn, View(size=SIZE))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours[0], ours[1])


VIEWS = [*BARLOW_TWINS, SIMCLR[0], CIFAR_SIMCLR[0], CIFAR_VICREG[0], CLIP]


@pytest.mark.parametrize("view", VIEWS)
def test_whole_views_are_pillows(view: View) -> None:
    view = dataclasses.replace(view, size=48)
    images = [picture(sample, 60, 80) for sample in range(40)]
    drawn = [view.draw(sample_random(1, 0, sample, 0), 60, 80) for sample in range(40)]
    assert torch.equal(*both(images, drawn, view))


def test_a_row_does_not_depend_on_its_batch() -> None:
    view = dataclasses.replace(BARLOW_TWINS[1], size=48, blur=0.5)
    drawn = [view.draw(sample_random(2, 0, sample, 0), 48, 48) for sample in range(90)]  # more than a chunk
    pixels = torch.stack([tensor(picture(sample, 48, 48)) for sample in range(90)])
    before = pixels.clone()
    whole = finish(pixels, rest(drawn), view)
    assert torch.equal(whole, torch.cat([finish(pixels[i : i + 1], rest([d]), view) for i, d in enumerate(drawn)]))
    assert torch.equal(whole, finish(pixels.contiguous(memory_format=torch.channels_last), rest(drawn), view))
    assert torch.equal(pixels, before)


def test_a_row_of_numbers_is_short_and_held_by_float32() -> None:
    for sample in range(50):
        numbers = rest_of(SIMCLR[0].draw(sample_random(3, 0, sample, 0), 60, 80))
        assert len(numbers) == REST
        factors = {7, 8, 9, 10}
        exact = torch.tensor(numbers, dtype=torch.float32).tolist()
        assert all(a == b for i, (a, b) in enumerate(zip(numbers, exact)) if i not in factors)
        assert numbers == pytest.approx(exact, rel=1e-7)


@pytest.mark.slow
def test_compiled_is_the_same() -> None:
    view = dataclasses.replace(BARLOW_TWINS[1], size=24, blur=0.5, solarize=0.5)
    for batch in range(3):  # other operations on other rows: the same kernels
        drawn = [view.draw(sample_random(batch, 0, sample, 0), 24, 24) for sample in range(16)]
        pixels = torch.stack([tensor(picture(sample, 24, 24)) for sample in range(16)])
        with torch.compiler.set_stance("fail_on_recompile" if batch else "default"):
            assert torch.equal(finish(pixels, rest(drawn), view, compiled=True), finish(pixels, rest(drawn), view))
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gpu_gives_the_cpu_s_levels_and_is_never_waited_for(compiled: bool) -> None:
    view = dataclasses.replace(BARLOW_TWINS[1], size=48, blur=0.5, solarize=0.5)
    drawn = [view.draw(sample_random(4, 0, sample, 0), 48, 48) for sample in range(32)]
    pixels = torch.stack([tensor(picture(sample, 48, 48)) for sample in range(32)])
    on_gpu, numbers = pixels.cuda(), rest(drawn).to("cuda")
    finish(on_gpu, numbers, view, compiled)  # constants and kernels are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = finish(on_gpu, numbers, view, compiled)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    levels = ours.cpu().sub_(finish(pixels, rest(drawn), view)).abs_().mul_(255 * 0.23)
    assert (levels > 0.5).float().mean() < 1e-3
