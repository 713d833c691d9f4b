"""What a loss of the whole batch asks of the processes that hold its rows; alone, nothing."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """The processes that train together, each with the same number of rows of every batch.

    rank: this one's place, in [0, size).
    gather: the rows of every rank in rank order, (n, ...) -> (N, ...) with N = size * n.
    sum: the sum over ranks, the same shape, on every rank.
    Both let gradients flow back, each rank's to where the values came from, summed over ranks: a rank receives the
    gradient of the sum over ranks of what each of them back-propagates.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, x: Tensor) -> Tensor: ...

    def sum(self, x: Tensor) -> Tensor: ...


class _Alone:
    """One process, which holds all rows."""

    rank, size = 0, 1

    def gather(self, x: Tensor) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x


ALONE = _Alone()
