"""How far a long search through files has got."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY_S = 30  # where there is no terminal


def progress(
    items: Iterable[T], total: int, what: str, size: Callable[[T], int] | None = None, unit: str = ""
) -> Iterator[T]:
    """Yields `items`, with a live line on a terminal, else a plain one every half minute: none for short ones.

    Args:
        total: how many there are, or the sum of their sizes.
        size: of an item; None counts them.
        unit: of sizes, such as "B": numbers are then shown in thousands, millions, ...
    """
    live = sys.stderr.isatty()
    bar = tqdm(total=total, desc=what, leave=False, delay=1, disable=not live, unit=unit or "it", unit_scale=bool(unit))
    began = last = time.monotonic()
    done = 0
    with bar:
        for item in items:
            yield item
            done += size(item) if size else 1
            bar.update(size(item) if size else 1)
            now = time.monotonic()
            if not live and now - last >= LINE_EVERY_S:
                last = now
                print(f"{what}: {_line(done, total, now - began, unit)}", file=sys.stderr, flush=True)


def _line(done: int, total: int, seconds: float, unit: str) -> str:
    """Returns how much is done, how fast, and the time left at that speed."""
    rate = done / seconds
    left = round((total - done) / rate) if rate else 0
    form = tqdm.format_sizeof if unit else lambda number: f"{number:.4g}" if number < 1000 else f"{number:.0f}"
    counts = f"{form(done)}{unit}/{form(total)}{unit}" if unit else f"{done}/{total}"
    return f"{counts}, {form(rate)}{unit}/s, {tqdm.format_interval(left)} left"
