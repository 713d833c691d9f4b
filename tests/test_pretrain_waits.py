"""Between two log points the loop never waits for the device: what would make it wait is counted in pretrain.py itself.

A CPU run waits for nothing, so calls are watched instead: those whose result the host has to know before it can go on.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import data.loader
import data.resident
from losses import BarlowTwins, SigLIP, VICReg
from models import Backbone, Bytes, Mlp, Projection, TextTransformer
from objectives import ImageText, JointEmbedding
from tests.runs import QUIET, TINY, change_recipes
from training.optimizers import Lars

Main = Callable[[list[str]], int]
LOG_EVERY = 3
STEPS = 5
FLAGS = [*TINY, *QUIET, "--epochs", "1", "--workers", "0", "--log-every", str(LOG_EVERY), "--save-every", "1000"]
# The steps that log nothing; but for the first, in which constants such as a view's mean go to the device once.
BETWEEN = [step for step in range(2, STEPS) if step % LOG_EVERY]

# Methods that bring a value to the host. On a CPU some of them never reach the dispatcher.
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__"}
# A number of the host made a tensor: on a GPU a copy that is waited for.
MAKES = {"tensor", "as_tensor", "asarray", "from_numpy"}
# Operations whose output's shape, or whose Python result, depends on the values.
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive"}
SIZED_BY_VALUES |= {"_local_scalar_dense", "is_nonzero", "equal", "bincount", "repeat_interleave"}


class Watch:
    """Counts the waits of each step, by name, while it heeds."""

    def __init__(self) -> None:
        self.step, self.heeds = 0, False
        self.waits: dict[int, Counter[str]] = {}

    def next_step(self) -> None:
        self.step += 1
        self.waits[self.step] = Counter()

    def heed(self, heeds: bool) -> None:
        self.heeds = heeds

    def saw(self, name: str) -> None:
        if self.heeds and not counts_on_the_host():
            self.waits[self.step][name] += 1

    def between(self) -> dict[int, Counter[str]]:
        """Returns the waits of the steps that log nothing, where there are any."""
        return {step: self.waits[step] for step in BETWEEN if self.waits[step]}


def counts_on_the_host() -> bool:
    """Returns whether the caller is torch's Adam, whose counts of steps are tensors that stay on the CPU."""
    frame: FrameType | None = sys._getframe()
    while frame and not frame.f_code.co_filename.endswith("torch/optim/adam.py"):
        frame = frame.f_back
    return frame is not None


class Methods(TorchFunctionMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if (name in READS and getattr(Tensor, name, None) is func) or (
            name in MAKES and getattr(torch, name, None) is func
        ):
            self.watch.saw(name)
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in SIZED_BY_VALUES:
            self.watch.saw(name)
        if name.startswith(("index", "_index", "_unsafe_index")):
            indices = args[1] if isinstance(args[1], list | tuple) else []
            if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.watch.saw("a mask as index")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, watch: Any) -> Iterator[None]:
    """Within: the watch heeds the steps of a run, and of the loader's work what is done on the device."""

    def started(start: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
        def steps(loader: Any) -> Iterator[Any]:
            batches = start(loader)
            while True:
                watch.heed(False)
                watch.next_step()
                batch = next(batches)
                watch.heed(True)
                yield batch

        return steps

    def on_the_device(function: Callable[..., Any]) -> Callable[..., Any]:
        def heeded(*args: Any) -> Any:
            watch.heed(watch.step > 0)
            result = function(*args)
            watch.heed(False)
            return result

        return heeded

    with monkeypatch.context() as patch:
        for kind in (data.loader.Loader, data.resident.ResidentLoader):
            patch.setattr(kind, "__iter__", started(kind.__iter__))
        patch.setattr(data.loader, "finished", on_the_device(data.loader.finished))
        for name in ("crop_batch", "finish"):
            patch.setattr(data.resident, name, on_the_device(getattr(data.resident, name)))
        yield
    watch.heed(False)


def count(main: Main, monkeypatch: pytest.MonkeyPatch, *command: str) -> Watch:
    watch = Watch()
    with ExitStack() as stack:
        stack.enter_context(watched(monkeypatch, watch))
        stack.enter_context(Methods(watch))
        stack.enter_context(Operations(watch))
        assert main([*command, *FLAGS, "--device", "cpu"]) == 0
    assert sorted(watch.waits) == list(range(1, STEPS + 1))
    return watch


LARS = Lars(lr=0.2, lr_vectors=0.01, weight_decay=1e-6)
RESNET = partial(JointEmbedding, encoder=Backbone("test_resnet"), head=Mlp((32, 32, 32)))
SIGLIP_TEXT = TextTransformer(Bytes(32, trim=False), 16, 1, 2, causal=False, pool="last")
SIGLIP = partial(
    ImageText,
    encoder=Backbone("test_resnet"),
    head=Projection(16),
    text_head=Projection(16),
    loss=SigLIP(),
    text=SIGLIP_TEXT,
)

RUNS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "barlow_twins": ("demo", {"objective": partial(RESNET, loss=BarlowTwins()), "optimizer": LARS}, []),
    "vicreg": ("demo", {"objective": partial(RESNET, loss=VICReg()), "precision": "bf16"}, []),
    "recompute": ("demo", {"objective": partial(RESNET, loss=BarlowTwins()), "optimizer": LARS}, ["--recompute"]),
    "resident": ("demo", {"objective": partial(RESNET, loss=BarlowTwins())}, ["--resident"]),
    "chunks": ("demo", {"objective": partial(RESNET, loss=BarlowTwins())}, ["--chunks", "2"]),
    "clip": ("npairs_demo", {"clip_grad": 1.0}, []),
    "siglip": ("npairs_demo", {"objective": SIGLIP, "tokenizer": SIGLIP_TEXT.tokenizer}, []),
}


@pytest.mark.parametrize("name", RUNS)
def test_only_log_points_wait(name: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, fields, flags = RUNS[name]
    change_recipes(monkeypatch, **fields)
    watch = count(main, monkeypatch, recipe, "--out", str(tmp_path / "run"), *flags)
    assert watch.between() == {}
    assert watch.waits[LOG_EVERY] == {"tolist": 1}  # the watch sees what it is there to see


def wait_after_step(objective: JointEmbedding, z: dict[str, Tensor], progress: float) -> None:
    z["a"].sum().item()


def test_one_item_in_a_step_is_noticed(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JointEmbedding, "after_step", wait_after_step)
    watch = count(main, monkeypatch, "demo", "--out", str(tmp_path / "run"))
    assert watch.between() == {step: {"item": 1, "_local_scalar_dense": 1} for step in BETWEEN}


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: 1 if x.sum() > 0 else 0,
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: torch.equal(x, x),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), torch.zeros(())),
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: torch.unique(x),
        lambda x: torch.where(x > 0),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x * torch.tensor([2.0]),
        lambda x: torch.nn.utils.clip_grad_norm_(x, 1.0, error_if_nonfinite=True),
    ],
)
def test_what_the_watch_sees(wait: Callable[[Tensor], Any]) -> None:
    x = torch.arange(1.0, 4.0)
    x.grad = torch.ones(3)
    watch = Watch()
    watch.next_step()
    watch.heed(True)
    with Methods(watch), Operations(watch):
        wait(x)
    assert sum(watch.waits[1].values()) > 0


class SyncErrors:
    """Has CUDA raise an error at any wait of a step that logs nothing."""

    def __init__(self) -> None:
        self.step = 0

    def next_step(self) -> None:
        self.step += 1

    def heed(self, heeds: bool) -> None:
        torch.cuda.set_sync_debug_mode("error" if heeds and self.step in BETWEEN else "default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", RUNS)
def test_cuda_agrees(name: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, fields, flags = RUNS[name]
    change_recipes(monkeypatch, **fields)
    watch = SyncErrors()
    with watched(monkeypatch, watch):
        assert main([recipe, "--out", str(tmp_path / "run"), *flags, *FLAGS, "--workers", "1", "--device", "cuda"]) == 0
    assert watch.step == STEPS
