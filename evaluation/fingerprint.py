"""Which images a set holds, and in which state, as a digest: what features were computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data import ImageSet
from data.packed import Packed
from parallel import World

ROWS = 4096
THREADS = 8  # a network disk is waited for, not computed


def fingerprint(image_set: ImageSet, world: World) -> str:
    """Returns a sha256 of classes, and of every image's label, name under the set's root, and state, in their order.

    An image file's state is its size and the time it was written; a packed set's is the store's digest; where there
    are no files, it is the pixels. Every rank looks at a part of the images.

    Raises:
        BadImage: an image without a file cannot be read.
    """
    num = len(image_set)
    blocks = [range(start, min(start + ROWS, num)) for start in range(0, num, ROWS)]
    digests: list[bytes] = []
    with world.together(), ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda block: _digest(image_set, block), blocks[world.rank :: world.size]))
    of_ranks = world.collect(digests)
    sha = hashlib.sha256(repr((image_set.classes, num)).encode())
    for number in range(len(blocks)):
        sha.update(of_ranks[number % world.size][number // world.size])
    return sha.hexdigest()


def _digest(image_set: ImageSet, rows: Sequence[int]) -> bytes:
    whole = image_set
    while hasattr(whole, "images"):  # a part of a set
        whole = whole.images
    root, labels = str(getattr(whole, "root", "")), image_set.labels
    sha = hashlib.sha256()
    for row in rows:
        name = image_set.name(row)
        known = whole.store.id if isinstance(whole, Packed) else _state(image_set, row, name)
        sha.update(repr((int(labels[row]), name.removeprefix(root), known)).encode("utf-8", "surrogateescape"))
    return sha.digest()


def _state(image_set: ImageSet, row: int, name: str) -> object:
    try:
        status = Path(name).stat()
    except OSError:
        image = image_set.image(row)
        return image.size, hashlib.sha256(image.tobytes()).hexdigest()
    return status.st_size, status.st_mtime_ns
