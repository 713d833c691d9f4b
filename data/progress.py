"""How far a long search through files has got."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY_S = 30  # where there is no terminal


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yields `items`, with a live line on a terminal, else a plain one every half minute: none for short ones."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, delay=1)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)
