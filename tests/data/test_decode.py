"""The fast decoders equal Pillow in every pixel and in every refusal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import BadImage, ImageFolder, Pairs, Shapes, decode, images, read_image
from data.sets import Pixels


@pytest.fixture(params=[True, False], ids=["simplejpeg", "torchvision"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        pytest.importorskip("simplejpeg")
    monkeypatch.setattr(decode, "SIMPLEJPEG", request.param)


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns what was left to Pillow, by name."""
    names: list[str] = []

    def watched(source: Path | bytes, name: str = "") -> Image.Image:
        names.append(name)
        return read_image(source, name)

    monkeypatch.setattr(decode, "read_image", watched)
    return names


def photo(height: int = 61, width: int = 83) -> Image.Image:
    """Returns an image with soft and hard edges, whose sides are no multiples of a JPEG's blocks."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)).copy()
    soft[height // 3 :, width // 2 :] = 255 - soft[height // 3 :, width // 2 :]
    return Image.fromarray(soft)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def outcome(read: Callable[[bytes, str], object], data: bytes) -> str | torch.Tensor:
    try:
        return torch.from_numpy(np.array(read(data, "x"))) if read is read_image else read(data, "x").permute(1, 2, 0)
    except BadImage as bad:
        return str(bad)


def same(data: bytes) -> bool:
    expected, found = outcome(read_image, data), outcome(decode.decode, data)
    if isinstance(expected, str) or isinstance(found, str):
        return isinstance(expected, str) and isinstance(found, str) and expected == found
    return found.dtype == torch.uint8 and torch.equal(expected, found)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


def plain() -> Iterator[tuple[str, bytes]]:
    """Yields what the fast decoders take, by name."""
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        for progressive in (False, True):
            options = {"subsampling": subsampling, "progressive": progressive}
            yield f"{subsampling} {progressive}", encoded(photo(), quality=60, **options)
    yield "gray", encoded(photo().convert("L"))
    yield "rotated by EXIF", encoded(photo(), exif=exif(6))
    yield "RGB with an Adobe marker", encoded(photo(), keep_rgb=True)
    yield "with a profile in parts", encoded(photo(), icc_profile=b"x" * 70_000)
    yield "restart markers", encoded(photo(), restart_marker_blocks=3)
    yield "bytes after its end", encoded(photo()) + b"more"
    for height, width in ((1, 1), (1, 17), (9, 1), (16, 16)):
        yield f"{height} x {width}", encoded(photo(height, width))


def odd() -> Iterator[tuple[str, bytes]]:
    """Yields what is left to Pillow, by name."""
    yield "CMYK", encoded(photo().convert("CMYK"))
    yield "PNG", encoded(photo(), "PNG")
    yield "PNG, 16 bits", encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG")
    yield "PNG, palette", encoded(photo().convert("P"), "PNG")
    yield "empty", b""
    yield "text", b"<html>404</html>"
    yield "the first bytes of a JPEG", encoded(photo())[:9]
    whole = encoded(photo(), quality=95)
    frame = whole.index(b"\xff\xc0")
    yield "twelve bits", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :]
    yield "no height", whole[: frame + 5] + b"\0\0" + whole[frame + 7 :]


def faulty() -> Iterator[tuple[str, bytes]]:
    """Yields what a fast decoder begins: cut off, or with one wrong byte in a header or among the coefficients."""
    for progressive in (False, True):
        data = encoded(photo(), quality=95, progressive=progressive)
        for share in (0.4, 0.6, 0.95):
            yield f"{progressive} cut at {share}", data[: int(len(data) * share)]
        for short in (1, 2):
            yield f"{progressive} cut by {short}", data[:-short]
        rng = np.random.default_rng(0)
        for end in (data.index(b"\xff\xda") + 14, len(data)):
            for number in range(60):
                broken = bytearray(data)
                broken[rng.integers(3, end)] = rng.integers(256)
                yield f"{progressive} {end} {number}", bytes(broken)


def test_a_plain_jpeg_is_decoded_as_pillow_does_without_it(by_pillow: list[str]) -> None:
    for name, data in plain():
        assert same(data), name
        assert not by_pillow, name


def test_what_is_odd_is_left_to_pillow(by_pillow: list[str]) -> None:
    for number, (name, data) in enumerate(odd()):
        assert same(data), name
        assert len(by_pillow) == number + 1, name


def test_a_faulty_jpeg_is_refused_or_mended_as_by_pillow(by_pillow: list[str]) -> None:
    for name, data in faulty():
        assert same(data), name
    assert by_pillow


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch, by_pillow: list[str]) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 61 * 83 - 1)
    monkeypatch.setattr(decode, "MAX_PIXELS", 61 * 83 - 1)
    assert same(encoded(photo()))
    assert by_pillow == ["x"]


def test_pixels_lie_side_by_side_in_memory() -> None:
    for data in (encoded(photo()), encoded(photo(), "PNG")):
        assert decode.decode(data).permute(1, 2, 0).is_contiguous()


def test_a_path_is_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(photo()))
    assert torch.equal(decode.decode(tmp_path / "a.jpg"), decode.decode(encoded(photo())))
    (tmp_path / "a.jpg").write_bytes(b"")
    for path in (tmp_path / "a.jpg", tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(BadImage) as expected:
            read_image(path)
        with pytest.raises(BadImage) as found:
            decode.decode(path)
        assert str(found.value) == str(expected.value)


def test_every_set_gives_the_same_pixels_both_ways(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "train" / "a" / f"{number}.jpg").write_bytes(encoded(photo(30 + number)))
        (tmp_path / "train" / "a" / f"{number}.txt").write_text("a caption")
    array = np.stack([np.asarray(photo())] * 3)
    sets = [
        ImageFolder().open(tmp_path, "train"),
        Pixels(tmp_path, ("a",), array, np.zeros(3)),
        Pairs().open(tmp_path, "train"),
        Shapes(3, 3).open(None, "train"),
    ]
    for images_of in sets:
        for index in range(3):
            expected = torch.from_numpy(np.array(images_of.image(index))).permute(2, 0, 1)
            assert torch.equal(images_of.pixels(index), expected), type(images_of)


def test_real_images_are_equal(real_data: Callable[[str], Path]) -> None:
    files = [path for path in real_data("imagenet_sample").rglob("*") if path.is_file()]
    assert len(files) == 100
    odd_folder = real_data("imagenet_odd")
    rows = csv.DictReader((odd_folder / "manifest.csv").read_text().splitlines())
    files += [odd_folder / row["file"] for row in rows]
    for path in files:
        assert same(path.read_bytes()), path
