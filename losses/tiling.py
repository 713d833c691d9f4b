"""Logits of all N x N pairs of a batch, a tile at a time: never the whole matrix, nor its gradient, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Up to so many logits (N = 2896, 32 MiB in float32) are kept: SigLIP would else be slower than from the whole.
KEPT = 2**23


def tile_edge(num_rows: int, device: torch.device) -> int:
    """Returns how many rows and columns of the (N, N) logits make a tile.

    On a CPU 1024: 4 MiB in float32, which caches hold and matrix products are fast at. On a GPU 2048, so that a kernel
    is long beside its launch: derived, not measured.
    """
    across = math.ceil(num_rows / (1024 if device.type == "cpu" else 2048))
    return math.ceil(num_rows / across)


class Units(NamedTuple):
    """Rows over their lengths (N, D), and these lengths (N, 1)."""

    rows: Tensor
    length: Tensor

    @classmethod
    def of(cls, z: Tensor) -> Units:
        """Returns those of `z` (N, D), as F.normalize makes them: no length is under 1e-12."""
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min_(1e-12)
        return cls(z / length, length)

    def back(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """Turns the gradient (N, D) of scale * these rows into that of `z`, in place; returns the gradient of scale."""
        along = (gradient * self.rows).sum(1, keepdim=True)
        gradient.addcmul_(self.rows, along, value=-1).mul_(scale / self.length)
        return along.sum()


class Tile(NamedTuple):
    """Some rows and columns of the logits (n, m), and two buffers (n, m) to write to."""

    rows: slice
    columns: slice
    logits: Tensor
    buffer: Tensor
    other: Tensor

    def same(self, number: Tensor, out: Tensor) -> Tensor:
        """Returns `out` (n, m) with 1 for pairs whose numbers are equal and 0 for others."""
        return torch.eq(number[self.rows, None], number[self.columns], out=out)

    def partners(self, distance: int, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields the rows here whose partner is here, too, so many columns to the right or left of the diagonal.

        With them comes the diagonal of `values` (n, m) that belongs to these pairs: a view.
        """
        for across in (distance, -distance):
            offset = self.rows.start + across - self.columns.start
            if -values.shape[0] < offset < values.shape[1]:
                diagonal = values.diagonal(offset)
                start = self.rows.start + max(0, -offset)
                yield slice(start, start + len(diagonal)), diagonal


def room(a: Tensor) -> Tensor | None:
    """Returns memory (N, N) for logits to be kept, or None where they are too many; for `a` (N, D)."""
    return a.new_empty(len(a), len(a)) if len(a) ** 2 <= KEPT else None


def tiles(
    a: Units, b: Units, scale: Tensor, kept: Tensor | None, filled: bool = False, symmetric: bool = False
) -> Iterator[Tile]:
    """Yields scale * cosine of all rows of `a` with all of `b`, (N, D) each, tile by tile in the same memory.

    Args:
        kept: (N, N), where the logits stay, if anywhere.
        filled: they are there already.
        symmetric: only the tiles on the diagonal and to the right of it.
    """
    num_rows = len(a.rows)
    edge = tile_edge(num_rows, a.rows.device)
    buffers = [a.rows.new_empty(edge * edge) for _ in range(2 if kept is not None else 3)]
    parts = [slice(start, min(start + edge, num_rows)) for start in range(0, num_rows, edge)]
    for row, rows in enumerate(parts):
        scaled = a.rows[rows] * scale
        for columns in parts[row if symmetric else 0 :]:
            size = (rows.stop - rows.start, columns.stop - columns.start)
            buffer, other, *rest = (memory[: math.prod(size)].view(size) for memory in buffers)
            logits = rest[0] if kept is None else kept[rows, columns]
            if kept is None or not filled:
                torch.mm(scaled, b.rows[columns].T, out=logits)
            yield Tile(rows, columns, logits, buffer, other)


class Gradients:
    """Gradients of what the units `a` and `b` (N, D) come from and of the scale, from that of the logits, by tiles."""

    def __init__(self, a: Units, b: Units, wants_a: bool, wants_b: bool) -> None:
        """Makes room for what is wanted; `b` also stands in for `a` where only the scale is."""
        self.a, self.b = a, b
        self.of_a = torch.zeros_like(a.rows) if wants_a else None
        self.of_b = torch.zeros_like(b.rows) if wants_b or not wants_a else None

    def add(self, tile: Tile, gradient: Tensor) -> None:
        """Takes the gradient (n, m) of a tile's logits."""
        if self.of_a is not None:
            self.of_a[tile.rows].addmm_(gradient, self.b.rows[tile.columns])
        if self.of_b is not None:
            self.of_b[tile.columns].addmm_(gradient.T, self.a.rows[tile.rows])

    def finish(self, scale: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients of what `a` and `b` come from, and of the scale, which is the same seen from both."""
        of_scale = None
        for gradient, units in ((self.of_a, self.a), (self.of_b, self.b)):
            if gradient is not None:
                of_scale = units.back(gradient, scale)
        return self.of_a, self.of_b, of_scale
