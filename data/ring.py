"""The memory that data workers fill and the training process reads: slots in a ring, allocated once."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from typing import Any

import torch
from torch import Tensor

from .batches import Rows

ALIGNMENT = 64  # bytes: a cache line, and more than any instruction wants


class Ring:
    """`slots` slots, each one batch's rows. Shared by all processes forked from this one, and gone with the last.

    The memory is anonymous, so it has no name to leave behind and does not count against the size of /dev/shm.

    Args:
        plan: the rows of one slot, on the device "meta": sizes, kinds of numbers and strides.

    Attributes:
        locked: whether it is page-locked, or why not, in words; "" where that was not tried.
    """

    def __init__(self, plan: Rows, slots: int) -> None:
        sizes = [_bytes(tensor) for tensor in (*plan.views, *plan.rest, plan.index, plan.label)]
        self.num_bytes = slots * sum(sizes)
        self.num_rows = len(plan.index)
        self.locked = ""
        self._memory = mmap.mmap(-1, self.num_bytes)
        self._slots = [self._slot(plan, number * sum(sizes)) for number in range(slots)]

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, step: int) -> Rows:
        """Returns the slot of the batch of `step`."""
        return self._slots[step % len(self._slots)]

    def __str__(self) -> str:
        size = f"{len(self)} slots of {self.num_rows} rows, {self.num_bytes / 1e6:.0f} MB"
        return f"{size}, {self.locked}" if self.locked else size

    def pin(self, device: torch.device) -> None:
        """Page-locks the memory, so that a GPU copies it while the host goes on; without, copies are only slower."""
        runtime: Any = torch.cuda.cudart()
        address = self._slots[0].views[0].data_ptr()
        code = runtime.cudaHostRegister(address, self.num_bytes, 0)
        if int(code) == 0:
            self.locked = "page-locked"
            weakref.finalize(self, runtime.cudaHostUnregister, address)
            return
        self.locked = f"not page-locked, so copies are slower ({runtime.cudaGetErrorString(code)})"
        with contextlib.suppress(RuntimeError):  # CUDA keeps the error for whoever launches next: that is this line
            torch.zeros(1, device=device)

    def _slot(self, plan: Rows, offset: int) -> Rows:
        def place(tensor: Tensor) -> Tensor:
            nonlocal offset
            flat = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
            offset += _bytes(tensor)
            return flat.as_strided(tensor.shape, tensor.stride())

        views, rest = (tuple(place(tensor) for tensor in tensors) for tensors in (plan.views, plan.rest))
        return Rows(views, rest, place(plan.index), place(plan.label))


def _bytes(tensor: Tensor) -> int:
    """Returns the bytes that a tensor takes in a slot."""
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
