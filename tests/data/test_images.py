"""Decoding: the odd but readable files load right, the broken ones are refused by name."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import BadImage, read_image

GRADIENT = np.tile(np.arange(256, dtype=np.uint8), (40, 1))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_16_bit_png_keeps_its_levels() -> None:
    """Pillow's own convert("RGB") clips it at 255: white."""
    data = encoded(Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG")
    assert np.array_equal(np.asarray(read_image(data, "x"))[..., 0], GRADIENT)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    image = Image.fromarray(np.stack([GRADIENT, GRADIENT[:, ::-1], GRADIENT // 2], -1)).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    found = read_image(data, "x")
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_loads_without_a_warning() -> None:
    image = Image.fromarray(GRADIENT).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(read_image(data, "x"))[..., 0], GRADIENT)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not an image .0 bytes"), (b"<html>404</html>", "not an image .16 bytes")],
    ids=["empty", "text"],
)
def test_what_is_no_image_is_refused_by_name(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match=rf"a\.jpg: {words}"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(BadImage, match="cut"):
        read_image(data[: len(data) * 6 // 10], "cut")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    for side in (10_000, 40_000):  # over our limit; over Pillow's
        head = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with pytest.raises(BadImage, match="pixels"):
            read_image(data, "bomb")


def test_the_odd_images_of_imagenet(real_data: Callable[[str], Path]) -> None:
    """14 odd but readable files load right, 3 broken ones are refused."""
    folder = real_data("imagenet_odd")
    rows = list(csv.DictReader((folder / "manifest.csv").read_text().splitlines()))
    assert len(rows) == 17
    for row in rows:
        path = folder / row["file"]
        if row["file"].startswith("bad/"):
            with pytest.raises(BadImage, match=path.name):
                read_image(path)
            continue
        found = np.asarray(read_image(path), dtype=float)
        assert found.ndim == 3
        assert found.shape[2] == 3
        if "d_gray16" in row["file"]:
            assert found.mean() < 250  # white is what a plain convert gives
        elif found.size > 3:
            assert found.std() > 5
