"""Which image and which caption are a pair: by the names of their files, for folders and tars alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from .sets import SUFFIXES

T = TypeVar("T")

IMAGES = {suffix[1:].encode(): rank for rank, suffix in enumerate(SUFFIXES)}
JSON = b"json"

Skip = Callable[[str, bytes], None]  # called with a reason and the path of what is left out

NO_CAPTION = "image without a caption"
NO_IMAGE = "caption without an image"
REPLACED = "replaced by a later file of the same name"
SECOND = "second image of the same key"
DOTTED = "dot within the name: the key ends at the first"
OUTSIDE = "path that leads outside"


class Found(NamedTuple, Generic[T]):
    """A pair, not yet read; T says where a file's bytes are."""

    image_path: bytes
    image: T
    caption_path: bytes
    caption: T
    is_json: bool


def split_name(path: bytes) -> tuple[bytes, bytes] | None:
    """Returns (key, suffix) as webdataset does: the key ends at the first dot of the last component.

    None for what has no suffix, and for hidden files (`._a.jpg`, which macOS adds).
    """
    stem, _, suffix = path[path.rfind(b"/") + 1 :].partition(b".")
    if not stem or not suffix:
        return None
    return path[: len(path) - len(suffix) - 1], suffix.lower()


def clean(path: bytes) -> bytes | None:
    """Returns the path without `./` before it, or None where it leads outside of the archive."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    return None if path.startswith(b"/") or (b".." in path and b".." in path.split(b"/")) else path


def pair(files: Iterable[tuple[bytes, T]], suffixes: tuple[bytes, ...], skip: Skip) -> list[Found[T]]:
    """Returns the pairs among `files`, which are (path, where its bytes are), in the order of their images.

    What has another suffix is not looked at (`.cls`, `.npy`). Of two files with the same path the later counts, as
    when a tar is unpacked. Of `a.jpg` and `a.png` the one whose suffix comes first in `SUFFIXES` counts.

    Args:
        suffixes: of captions, the preferred first.
        skip: is told what is left out, and why.
    """
    images: dict[bytes, tuple[bytes, T]] = {}  # by key
    texts: dict[bytes, dict[bytes, tuple[bytes, T]]] = {suffix: {} for suffix in suffixes}
    dotted: list[tuple[bytes, bytes]] = []
    for path, where in files:
        parts = split_name(path)
        if parts is None:
            continue
        key, suffix = parts
        if suffix in IMAGES:
            _add_image(images, key, path, where, skip)
        elif suffix in texts:
            if key in texts[suffix]:
                skip(REPLACED, path)
            texts[suffix][key] = path, where
        elif b"." in suffix and suffix[suffix.rfind(b".") + 1 :] in IMAGES:
            dotted.append((key, path))
    for key, path in dotted:
        if key not in images:
            skip(DOTTED, path)

    pairs = []
    for key, (path, where) in images.items():
        for suffix, found in texts.items():
            if key in found:
                pairs.append(Found(path, where, *found[key], suffix == JSON))
                break
        else:
            skip(NO_CAPTION, path)
    for found in texts.values():
        for key, (path, _) in found.items():
            if key not in images:
                skip(NO_IMAGE, path)
    return pairs


def _add_image(images: dict[bytes, tuple[bytes, T]], key: bytes, path: bytes, where: T, skip: Skip) -> None:
    there = images.get(key)
    if there is not None:
        rank, other = (IMAGES[name[len(key) + 1 :].lower()] for name in (path, there[0]))
        skip(REPLACED if path == there[0] else SECOND, there[0] if rank <= other else path)
        if rank > other:
            return
        del images[key]  # its place in the order goes with it
    images[key] = path, where
