"""Decoding to tensors, several times faster than Pillow's whole way and equal to it to the bit: see `read_image`."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .images import MAX_PIXELS, read_image

SIMPLEJPEG = find_spec("simplejpeg") is not None
FRAMES = (0xC0, 0xC1, 0xC2)  # markers of baseline, extended and progressive JPEG, Huffman coded
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # in the same range: tables, a reserved one


def decode(source: Path | bytes, name: str = "") -> Tensor:
    """Returns the image as uint8 (3, H, W), equal to `read_image` in every pixel and in every refusal.

    In memory a pixel's R, G, B lie side by side, as decoders leave them and as `augmentations.crop` is fastest on.

    A gray or three-channel JPEG that is whole is decoded by simplejpeg, where it is installed, else by torchvision;
    all three call libjpeg-turbo in the same way. What either of them complains of, and any other file, is left to
    `read_image`: it knows the odd cases, and whether the fault is one.

    Args:
        source: a path or the file's bytes.
        name: what an error calls it; the path by default.

    Raises:
        BadImage: as `read_image`.
    """
    name = name or str(source)
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError:
        return as_tensor(read_image(source, name))  # which says why
    if _is_plain_jpeg(data):
        try:
            return _by_simplejpeg(data) if SIMPLEJPEG else _by_torchvision(data)
        except (ValueError, RuntimeError, ImportError):
            pass
    return as_tensor(read_image(data, name))


def as_tensor(image: object) -> Tensor:
    """Returns an RGB image as uint8 (3, H, W) with its pixels' memory as in `decode`."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _by_simplejpeg(data: bytes) -> Tensor:
    import simplejpeg

    return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)


def _by_torchvision(data: bytes) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings(action="ignore"):  # from 0.29 on it warns that a later torchvision will not have it
        # a copy, since a tensor cannot promise to leave bytes as they are
        image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    assert isinstance(image, Tensor)  # it also takes, and returns, lists
    return image


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether the header is that of an 8-bit JPEG of one or three channels and a size that is allowed.

    Four channels are CMYK, which decoders turn to RGB by different rules.
    Source: ITU-T T.81, section B.1.1 (markers and lengths) and B.2.2 (frame header).
    """
    if data[:3] != b"\xff\xd8\xff":
        return False
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            plain = marker in FRAMES and data[at + 4] == 8 and data[at + 9] in (1, 3)
            return plain and 0 < height * width <= MAX_PIXELS
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return False
