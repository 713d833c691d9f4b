"""What a view does after its crop, as a row of numbers, and a batch's rows with the order in which to run them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from .blur import box
from .view import Drawn


class Op(IntEnum):
    """An operation, as it stands in a row of numbers."""

    NOTHING = 0
    BRIGHTNESS = 1
    CONTRAST = 2
    SATURATION = 3
    HUE = 4
    GRAY = 5
    BLUR = 6
    SOLARIZE = 7


JITTER, GRAY, BLUR, SOLARIZE = range(4), 4, 5, 6  # the stages that a view goes through, in this order
STAGES = 7
REST = 2 * STAGES + 2


def rest_of(drawn: Drawn) -> list[float]:
    """What `crop` leaves to do, as REST numbers that float32 holds.

    First the operation of each of the 7 stages (the colours in their order, grey, blur, solarise), then the number that
    goes with each (factor; turn of the hue in 0 .. 255; radius of the blur's box; threshold), last the box's weights.
    """
    ops, numbers = [float(Op.NOTHING)] * STAGES, [0.0] * STAGES
    inner, outer = 2**24, 0
    for stage, (op, factor) in enumerate(drawn.jitter):
        ops[stage] = Op[op.upper()]
        # The hue's factor is cut to an integer here, before float32 can round it across one.
        numbers[stage] = int(factor * 255) % 256 if op == "hue" else factor
    if drawn.gray:
        ops[GRAY] = Op.GRAY
    if drawn.sigma > 0:
        ops[BLUR] = Op.BLUR
        numbers[BLUR], inner, outer = box(drawn.sigma)
    if drawn.threshold is not None:
        ops[SOLARIZE], numbers[SOLARIZE] = Op.SOLARIZE, drawn.threshold
    return [*ops, *numbers, inner, outer]


class Rest(NamedTuple):
    """A batch's rows of numbers; which of them have which operation was found on the host, so that no device is asked.

    numbers: (n, REST). rows: (STAGES * n,) the batch's rows sorted by operation, stage after stage. counts: how many
    rows have each operation, stage after stage. reach: pixels that the widest box of the blur takes in on each side.
    """

    numbers: Tensor
    rows: Tensor
    counts: tuple[int, ...]
    reach: int

    @classmethod
    def of(cls, numbers: Tensor) -> Rest:
        """A batch of rows as `rest_of` gives them, float32 (n, REST) on the CPU."""
        assert numbers.dtype == torch.float32, numbers.dtype
        assert numbers.ndim == 2, numbers.shape
        assert numbers.shape[1] == REST, numbers.shape
        ops = numbers[:, :STAGES].T.long()
        counts = torch.bincount((ops + len(Op) * torch.arange(STAGES)[:, None]).flatten(), minlength=STAGES * len(Op))
        rows = ops.argsort(dim=1, stable=True).flatten()
        return cls(numbers, rows, tuple(counts.tolist()), int(numbers[:, STAGES + BLUR].max()) + 1)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Rest:
        """The same on `device`."""
        numbers, rows = (x.to(device, non_blocking=non_blocking) for x in (self.numbers, self.rows))
        return Rest(numbers, rows, self.counts, self.reach)

    def groups(self) -> Iterator[tuple[int, Op, Tensor]]:
        """Yields (stage, operation, rows) in the order to run them, for each operation that any row has."""
        start = 0
        for place, count in enumerate(self.counts):
            stage, op = divmod(place, len(Op))
            if count and op != Op.NOTHING:
                yield stage, Op(op), self.rows[start : start + count]
            start += count
