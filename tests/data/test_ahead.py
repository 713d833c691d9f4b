"""Batches on their way to a GPU: one ahead, in order, and the host's memory free again when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from augmentations import View
from data import Shapes
from data.ahead import OnItsWay, finished, one_ahead, to_device
from data.batches import Loaded, StepBatches
from data.loader import HELD, Loader
from data.ring import Ring

VIEW = View(size=16, blur=0.5)


def batches() -> StepBatches:
    return StepBatches(Shapes(40, 8).open(None, "train"), (VIEW, VIEW), 0, 8, 0, 1, False)


class Watched:
    """Stands in for a copy to a GPU, and writes down what happens to which batch."""

    def __init__(self, loaded: Loaded, log: list[str]) -> None:
        self.loaded, self.log = loaded, log
        log.append(f"copy {loaded.captions[0]}")

    def wait(self) -> Loaded:
        self.log.append(f"wait {self.loaded.captions[0]}")
        return self.loaded


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_next_batch_is_on_its_way_while_one_is_used(count: int) -> None:
    log: list[str] = []
    one = batches()[0]

    def host() -> Iterator[Loaded]:
        for step in range(count):
            log.append(f"ask {step}")
            yield Loaded(one.batch, (), [], None, [str(step)])

    def begin(loaded: Loaded) -> OnItsWay:
        return Watched(loaded, log)

    for loaded in one_ahead(host(), begin):
        log.append(f"use {loaded.captions[0]}")
    assert [line for line in log if line.startswith("use")] == [f"use {step}" for step in range(count)]
    for step in range(count - 1):
        assert log.index(f"copy {step + 1}") < log.index(f"use {step}") or step == 0  # the first is used at once
    for step in range(count - HELD):
        assert log.index(f"wait {step}") < log.index(f"ask {step + HELD}")  # from here its slot may be written to


class Runtime:
    """Stands in for CUDA's."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.registered: list[tuple[int, int]] = []
        self.unregistered: list[int] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.registered.append((address, size))
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        self.unregistered.append(address)
        return 0

    def cudaGetErrorString(self, code: int) -> str:
        return f"error {code}"


def test_the_ring_is_page_locked_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    ring = Ring(batches().rows(8, device="meta"), 3)
    ring.pin(torch.device("cpu"))
    first = ring[0].views[0]
    assert runtime.registered == [(first.data_ptr(), ring.num_bytes)]
    assert str(ring).endswith("page-locked")
    assert not runtime.unregistered
    address = first.data_ptr()
    del ring, first
    assert runtime.unregistered == [address]


def test_ordinary_memory_serves_where_none_can_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    ring = Ring(batches().rows(8, device="meta"), 3)
    ring.pin(torch.device("cpu"))
    assert "not page-locked, so copies are slower (error 2)" in str(ring)
    del ring
    assert not runtime.unregistered


def test_slots_are_apart_and_have_the_plans_layout() -> None:
    plan = batches().rows(5, device="meta")
    ring = Ring(plan, 3)
    for step in range(3):
        for memory in (*ring[step].views, *ring[step].rest, ring[step].index, ring[step].label):
            memory.fill_(step)
    for step in range(3, 6):
        rows = ring[step]
        assert all((memory == step - 3).all() for memory in (*rows.views, *rows.rest, rows.index, rows.label))
        assert [view.stride() for view in rows.views] == [view.stride() for view in plan.views]
    assert str(ring).startswith("3 slots of 5 rows, 0 MB")


def test_only_whole_levels_and_a_few_numbers_cross_to_a_gpu() -> None:
    """At most 0.31 MB an image of two 224 views: 0.301 of pixels."""
    views = (View(), View(blur=1.0))
    rows = StepBatches(Shapes(40, 8).open(None, "train"), views, 0, 8, 0, 1, False).rows(256, device="meta")
    assert all(view.dtype == torch.uint8 for view in rows.views)
    assert Ring(rows, 1).num_bytes / 256 < 0.31e6


def test_a_faulty_batch_is_not_finished() -> None:
    loaded = batches()[0]
    loaded.error = "broken"
    assert finished(loaded, (VIEW, VIEW), channels_last=False) is loaded.batch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_sees_the_batches_of_a_cpu(workers: int) -> None:
    device, one = torch.device("cuda", 0), batches()
    loader = Loader(one, 0, 12, workers, device, channels_last=True)
    for step, loaded in enumerate(loader):
        torch.cuda.set_sync_debug_mode("default")
        expected = to_device(one[step], one.views, torch.device("cpu"), channels_last=True)
        for found, view in zip(loaded.batch.views, expected.views, strict=True):
            assert (found.cpu() - view).abs().max() < 1e-5
            assert found.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(loaded.batch.index.cpu(), expected.index)
        torch.cuda.set_sync_debug_mode("error" if step < 11 else "default")  # nothing waits for the computing
    assert "page-locked" in str(loader.ring)
