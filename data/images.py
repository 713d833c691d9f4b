"""Decoding: one image file to RGB, with the odd cases decided once."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own warning level: 268 MB as RGB, so that one worker stays under half a gigabyte

# Images over MAX_PIXELS are refused below, by size in the header; Pillow's warning about the same would only be noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the second where warnings are errors


class BadImage(ValueError):  # noqa: N818  (it names the thing, as messages do)
    """An image file that cannot be decoded; the message names the file and the reason."""


def read_image(source: Path | bytes, name: str = "") -> Image.Image:
    """Returns the image as RGB, 8 bits a channel, as the papers' loaders (`Image.convert("RGB")`) do.

    Decided once: EXIF orientation is ignored, transparency is dropped, CMYK and grayscale are converted. One
    difference, on purpose: Pillow turns a 16-bit grayscale PNG white (it clips at 255); here its high byte is taken.

    Args:
        source: a path or the file's bytes.
        name: what an error calls it; the path by default.

    Raises:
        BadImage: empty, truncated, not an image, or more than MAX_PIXELS pixels.
    """
    name = name or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{name}: {image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
            if image.mode.startswith("I"):
                values = np.asarray(image)
                return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # else Pillow warns about a transparency it is about to drop
            return image.convert("RGB")
    except UnidentifiedImageError:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        raise BadImage(f"{name}: not an image ({size} bytes)") from None
    except (OSError, SyntaxError, ValueError, *BOMBS) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"{name}: {error}") from None
