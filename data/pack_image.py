"""One image as a store keeps it: small enough, as JPEG or as pixels."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .images import BadImage, read_image
from .packed import to_ppm
from .sets import Files, ImageSet
from .store import Kind

# Chroma at half size, as cameras, ImageNet's files and what Pillow and OpenCV write by default have it; named, so that
# another default of another version changes no store.
SUBSAMPLING = "4:2:0"
JPEG_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Form:
    """How images are kept.

    Args:
        longest: largest side, pixels: larger images are made smaller, none is made larger.
        quality: of JPEGs.
    """

    kind: Kind
    longest: int
    quality: int

    def encode(self, images: ImageSet, index: int) -> bytes:
        """Returns the file of a sample: its own where that is small enough and a plain JPEG. Raises BadImage."""
        original = b""
        if isinstance(images, Files):
            try:
                original = Path(images.name(index)).read_bytes()
            except OSError as error:
                raise BadImage(f"{images.name(index)}: {error.strerror or error}") from None
            image = read_image(original, images.name(index))  # also what is kept as it is: it should be whole
        else:
            image = images.image(index)
        if max(image.size) > self.longest:
            scale = self.longest / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BICUBIC)  # antialiased: Pillow widens the filter
        elif self.kind == "jpeg" and original and is_plain_jpeg(original):
            return original
        if self.kind == "raw":
            return to_ppm(image)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality, subsampling=SUBSAMPLING)
        return file.getvalue()

    def member(self, images: ImageSet, index: int) -> str:
        """Returns a sample's path in its shard: class and name as they were, and a suffix that says what it is now."""
        if isinstance(images, Files):
            path = images.path(index)
        else:
            path = f"{images.classes[images.labels[index]]}/{index:06d}"
        if self.kind == "raw":
            return f"{path}.ppm"
        return path if path.lower().endswith(JPEG_SUFFIXES) else f"{path}.jpg"


def is_plain_jpeg(data: bytes) -> bool:
    """Returns whether every decoder makes the same RGB of it: a JPEG, in colour or gray, no CMYK, one picture."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format == "JPEG" and image.mode in ("RGB", "L")


# ---- in a process of its own

_work: tuple[ImageSet, Form] | None = None


def start(images: ImageSet, form: Form) -> None:
    """Readies a worker process: it leaves Ctrl-C to its parent, and ends when that is gone."""
    global _work
    _work = images, form
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def encode_some(indices: range) -> list[bytes | BadImage]:
    """Returns the files of some samples, an error in the place of one that cannot be read."""
    assert _work is not None
    return encode_each(*_work, indices)


def encode_each(images: ImageSet, form: Form, indices: range) -> list[bytes | BadImage]:
    """The same in this process."""
    files: list[bytes | BadImage] = []
    for index in indices:
        try:
            files.append(form.encode(images, index))
        except BadImage as bad:
            files.append(bad)
    return files
