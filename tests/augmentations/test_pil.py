"""Pixels of `render`, `render_center` and `normalize`, to the bit, against torchvision on PIL images and Pillow."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from augmentations import (
    BARLOW_TWINS,
    CIFAR_BARLOW_TWINS,
    CIFAR_PROBE_TRAIN,
    CIFAR_SIMCLR,
    CIFAR_VICREG,
    MOCO_V3_RN50,
    PROBE_TRAIN,
    SIMCLR,
    Center,
    Drawn,
    View,
    normalize,
    render,
    render_center,
    sample_random,
)


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def waves(height: int, width: int) -> Image.Image:
    """Smooth in space and over the whole range of each channel, with grey, black and white patches."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([np.sin(x / 9 + y / 31), np.sin(x / 23 - y / 7), np.cos(x * y / 900)], -1) * 127.5 + 127.5
    pixels[: height // 5, : width // 5] = 119
    pixels[: height // 9, : width // 5] = 255
    pixels[: height // 5, : width // 9] = 0
    return Image.fromarray(pixels.astype(np.uint8))


IMAGES = {
    "noise": noise(90, 130),
    "waves": waves(150, 100),
    "1x1": noise(1, 1),
    "75x56": waves(56, 75),
    "411x120": waves(120, 411),
    "1x50": noise(50, 1),
}


@pytest.fixture(params=IMAGES.values(), ids=IMAGES.keys())
def image(request: pytest.FixtureRequest) -> Image.Image:
    return request.param


def plain(image: Image.Image, size: int = 40, **changes: Any) -> Drawn:
    """The whole image at `size`, nothing else done but `changes`."""
    whole = Drawn(0, 0, image.height, image.width, size, "bicubic", False, (), False, 0.0, None)
    return whole._replace(**changes)


def whole(image: Image.Image, size: int = 40) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def same(ours: torch.Tensor, theirs: Image.Image) -> bool:
    return ours.dtype == torch.uint8 and torch.equal(ours, F.pil_to_tensor(theirs))


def alone(images: Image.Image, **changes: Any) -> torch.Tensor:
    return render(images, plain(images, **changes))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [1, 17, 96])
def test_crop_and_resize(image: Image.Image, interpolation: Any, size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        h, w = int(rng.integers(1, image.height + 1)), int(rng.integers(1, image.width + 1))
        top, left = int(rng.integers(0, image.height - h + 1)), int(rng.integers(0, image.width - w + 1))
        drawn = plain(image, size, top=top, left=left, height=h, width=w, interpolation=interpolation)
        theirs = F.resized_crop(image, top, left, h, w, [size, size], InterpolationMode(interpolation))
        assert same(render(image, drawn), theirs)


def test_flip(image: Image.Image) -> None:
    assert same(alone(image, flip=True), F.hflip(whole(image)))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.61, 1.0, 1.4, 1.8, 3.0])
@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation"])
def test_colour_factors(image: Image.Image, op: str, factor: float) -> None:
    theirs = getattr(F, f"adjust_{op}")(whole(image), factor)
    assert same(alone(image, jitter=((op, factor),)), theirs)


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.1, -0.004, -0.003, 0.0, 0.003, 0.004, 0.0999, 0.2, 0.5])
def test_hue(image: Image.Image, turn: float) -> None:
    assert same(alone(image, jitter=(("hue", turn),)), F.adjust_hue(whole(image), turn))


def test_hue_wraps_around_at_every_turn() -> None:
    colours = Image.fromarray(
        np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), -1).reshape(64, 64, 3).astype("uint8")
    )
    for turn in np.linspace(-0.5, 0.5, 41).tolist():
        ours = render(colours, plain(colours, 64, jitter=(("hue", turn),)))
        assert same(ours, F.adjust_hue(colours, turn))


def test_colours_run_in_the_drawn_order(image: Image.Image) -> None:
    results = []
    for jitter in [(("brightness", 1.8), ("contrast", 0.3)), (("contrast", 0.3), ("brightness", 1.8))]:
        theirs = whole(image)
        for op, factor in jitter:
            theirs = getattr(F, f"adjust_{op}")(theirs, factor)
        results.append(alone(image, jitter=jitter))
        assert same(results[-1], theirs)
    assert not torch.equal(*results)


def test_gray(image: Image.Image) -> None:
    assert same(alone(image, gray=True), F.rgb_to_grayscale(whole(image), 3))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5, 1.0, 1.7, 2.0, 5.0])
def test_blur(image: Image.Image, sigma: float) -> None:
    assert same(alone(image, sigma=sigma), whole(image).filter(ImageFilter.GaussianBlur(radius=sigma)))


@pytest.mark.parametrize("threshold", [0, 1, 128, 200, 255, 256])
def test_solarize(image: Image.Image, threshold: int) -> None:
    assert same(alone(image, threshold=threshold), ImageOps.solarize(whole(image), threshold))


def reference(image: Image.Image, drawn: Drawn, flip_last: bool, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """The papers' chain of torchvision's transforms, fed the drawn numbers in place of its own."""
    factors = dict(drawn.jitter)
    names = ["brightness", "contrast", "saturation", "hue"]
    order = [names.index(op) for op, _ in drawn.jitter]
    crop = (drawn.top, drawn.left, drawn.height, drawn.width)
    monkeypatch.setattr(transforms.RandomResizedCrop, "get_params", staticmethod(lambda *_: crop))
    monkeypatch.setattr(
        transforms.ColorJitter, "get_params", staticmethod(lambda *_: (order, *map(factors.get, names)))
    )
    blur = transforms.Lambda(lambda x: x.filter(ImageFilter.GaussianBlur(radius=drawn.sigma)))
    flip = transforms.RandomHorizontalFlip(float(drawn.flip))
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(drawn.size, interpolation=InterpolationMode(drawn.interpolation)),
            *([] if flip_last else [flip]),
            transforms.RandomApply([transforms.ColorJitter(0.1, 0.1, 0.1, 0.1)], p=float(bool(drawn.jitter))),
            transforms.RandomGrayscale(float(drawn.gray)),
            transforms.RandomApply([blur], p=float(drawn.sigma > 0)),
            transforms.RandomApply(
                [transforms.Lambda(lambda x: ImageOps.solarize(x, drawn.threshold))],
                p=float(drawn.threshold is not None),
            ),
            *([flip] if flip_last else []),
        ]
    )
    return chain(image)


VIEWS = [*BARLOW_TWINS, SIMCLR[0], *MOCO_V3_RN50, *CIFAR_BARLOW_TWINS, CIFAR_SIMCLR[0], CIFAR_VICREG[0]]
VIEWS += [PROBE_TRAIN, CIFAR_PROBE_TRAIN, View(size=48, blur=0.7, solarize=0.5, threshold=90)]


@pytest.mark.parametrize("flip_last", [False, True], ids=["flip first", "flip last, as MoCo v3 and solo-learn"])
def test_whole_views_equal_the_papers_chain(
    image: Image.Image, flip_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for view in VIEWS:
        for sample in range(4):
            drawn = view.draw(sample_random(5, 0, sample, 0), image.height, image.width)
            assert same(render(image, drawn), reference(image, drawn, flip_last, monkeypatch)), (view, drawn)


def test_the_key_gives_the_pixels(image: Image.Image) -> None:
    view = View(size=24, blur=0.5)

    def pixels(*key: int) -> torch.Tensor:
        return render(image, view.draw(sample_random(*key), image.height, image.width))

    keys = [(s, e, i, v) for s in range(2) for e in range(2) for i in range(2) for v in range(2)]
    views = [pixels(*key) for key in keys]
    assert all(torch.equal(pixels(*key), v) for key, v in reversed(list(zip(keys, views))))
    if min(image.size) > 1:
        assert len({v.numpy().tobytes() for v in views}) == len(keys)


def test_the_result_is_contiguous_its_own_and_the_image_stays(image: Image.Image) -> None:
    before = image.tobytes()
    drawn = plain(image, size=image.height)
    if image.width != image.height:
        drawn = plain(image, size=5)
    result = render(image, drawn)
    assert result.shape == (3, drawn.size, drawn.size)
    assert result.is_contiguous()
    result.fill_(3)
    assert image.tobytes() == before


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "HSV"])
def test_other_modes_than_rgb_are_refused(mode: str) -> None:
    image = Image.new(mode, (40, 40))
    with pytest.raises(ValueError, match=f"RGB images, not mode '{mode}'"):
        render(image, plain(image))
    with pytest.raises(ValueError, match=f"RGB images, not mode '{mode}'"):
        render_center(image, Center(resize=None, size=32))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(90, 131), (131, 90), (64, 64), (64, 77), (33, 200), (41, 42), (1, 1)])
def test_center_equals_resize_and_center_crop(height: int, width: int, interpolation: Any) -> None:
    for resize, size in [(64, 56), (64, 63), (65, 56), (64, 64)]:
        theirs = transforms.Compose(
            [transforms.Resize(resize, InterpolationMode(interpolation)), transforms.CenterCrop(size)]
        )
        ours = render_center(waves(height, width), Center(resize, size, interpolation))
        assert same(ours, theirs(waves(height, width)))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 32), (33, 35), (80, 60)])
def test_center_without_resize(height: int, width: int) -> None:
    ours = render_center(noise(height, width), Center(resize=None, size=32))
    assert same(ours, transforms.CenterCrop(32)(noise(height, width)))


def test_center_refuses_an_image_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="50x31 pixels has no centre of 32"):
        render_center(noise(31, 50), Center(resize=None, size=32))


@pytest.mark.parametrize("view", [View(), CIFAR_BARLOW_TWINS[0], View(mean=(0.0, 1.0, -3.0), std=(1.0, 0.7, 1e-3))])
def test_normalize_equals_to_tensor_and_normalize(view: View) -> None:
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    images = [levels, waves(16, 16), noise(16, 16)]
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(view.mean, view.std)])
    batch = torch.stack([F.pil_to_tensor(image) for image in images])
    before = batch.clone()
    ours = normalize(batch, view.mean, view.std)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, torch.stack([theirs(image) for image in images]))
    assert torch.equal(batch, before)
    assert torch.equal(normalize(batch[0], view.mean, view.std), ours[0])
    channels_last = normalize(batch.to(memory_format=torch.channels_last), view.mean, view.std)
    assert torch.equal(channels_last, ours)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalize_on_the_gpu_equals_the_cpu() -> None:
    batch = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    ours = normalize(batch.cuda(), View().mean, View().std)
    assert ours.is_cuda
    assert torch.equal(ours.cpu(), normalize(batch, View().mean, View().std))


@pytest.mark.parametrize("batch", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 3, dtype=torch.uint8)])
def test_normalize_refuses_other_batches(batch: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="normalize takes uint8"):
        normalize(batch, View().mean, View().std)


@pytest.mark.parametrize(("angle", "zoom"), [(12.0, 1.0), (-7.5, 0.8), (0.0, 1.3), (90.0, 1.0), (171.0, 0.55)])
def test_a_turn_is_torchvisions(image: Image.Image, angle: float, zoom: float) -> None:
    turned = F.affine(
        image, angle, [0, 0], zoom, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR, fill=[255, 9, 30]
    )
    assert same(alone(image, turn=(angle, zoom), fill=(255, 9, 30)), whole(turned))


def test_a_turn_keeps_the_size_fills_with_the_colour_and_comes_before_the_crop() -> None:
    image = Image.new("RGB", (40, 40), (10, 20, 30))
    half = alone(image, turn=(0.0, 0.5), fill=(255, 255, 255))
    assert half[:, 0, 0].tolist() == [255, 255, 255]
    assert half[:, 20, 20].tolist() == [10, 20, 30]
    inner = alone(image, turn=(0.0, 0.5), fill=(255, 255, 255), top=10, left=10, height=20, width=20)
    assert torch.equal(inner.float().mean((1, 2)).round(), torch.tensor([10.0, 20.0, 30.0]))
