"""From the host's memory to finished views on the device; on a GPU the next batch is copied while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from augmentations import View, finish, normalize
from objectives import Batch, Text

from .batches import Loaded


def to_device(
    loaded: Loaded, views: tuple[View, ...], device: torch.device, channels_last: bool, compiled: bool = False
) -> Batch:
    """Returns the batch on `device`, its views finished: float32 and normalised, as ToTensor and Normalize do."""
    return finished(copied(loaded, device), views, channels_last, compiled)


def copied(loaded: Loaded, device: torch.device) -> Loaded:
    """Returns the same on `device`; from page-locked memory the host does not wait for it."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    batch = loaded.batch
    text = batch.text and Text(*map(move, batch.text))
    moved = Batch(tuple(map(move, batch.views)), move(batch.index), move(batch.label), text)
    return replace(loaded, batch=moved, rest=tuple(rest.to(device) for rest in loaded.rest))


def finished(loaded: Loaded, views: tuple[View, ...], channels_last: bool, compiled: bool = False) -> Batch:
    """Returns the batch with what is left to do to its views done where they are; as it is where that is nothing."""
    batch = loaded.batch
    if loaded.error or batch.views[0].is_floating_point():
        return batch
    if loaded.rest:
        each = zip(batch.views, loaded.rest, views, strict=True)
        done = [finish(pixels, rest, view, compiled) for pixels, rest, view in each]
    else:
        done = [normalize(pixels, view.mean, view.std) for pixels, view in zip(batch.views, views, strict=True)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return batch._replace(views=tuple(x.contiguous(memory_format=layout) for x in done))


class OnItsWay(Protocol):
    """A batch whose copy has begun."""

    def wait(self) -> Loaded:
        """Returns the batch once it is there."""
        ...


class Copy:
    """A batch whose copy to the GPU runs on the stream `side`, beside the computing."""

    def __init__(self, loaded: Loaded, device: torch.device, side: torch.cuda.Stream) -> None:
        self._device = device
        with torch.cuda.stream(side):
            self._loaded = copied(loaded, device)
            self._copied = side.record_event()

    def wait(self) -> Loaded:
        """Returns the batch once it is there: the host waits, for a copy begun a step ago, and for no computing."""
        self._copied.synchronize()
        batch = self._loaded.batch
        computing = torch.cuda.current_stream(self._device)
        rest = [tensor for rest in self._loaded.rest for tensor in (rest.numbers, rest.rows)]
        for tensor in (*batch.views, batch.index, batch.label, *(batch.text or ()), *rest):
            tensor.record_stream(computing)  # else the next copy could take its memory while it is still read
        return self._loaded


def one_ahead(host: Iterable[Loaded], begin: Callable[[Loaded], OnItsWay]) -> Iterator[Loaded]:
    """Yields the host's batches in order, each after the copy of the next has begun; the first does not wait for that.

    Batch s is there before batch s + 2 is asked for: the host may then use its memory again.
    """
    waiting: deque[OnItsWay] = deque()
    is_first = True
    for loaded in host:
        waiting.append(begin(loaded))
        if is_first or len(waiting) > 1:
            is_first = False
            yield waiting.popleft().wait()
    for copy in waiting:
        yield copy.wait()
