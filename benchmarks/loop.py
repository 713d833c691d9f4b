"""pretrain.py's own loop, run for some steps in this process with a stopwatch at its seams.

Nothing of the loop is rewritten here: its functions are wrapped where it looks them up, and the run is left by an
exception after the last step that is wanted.
"""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.losses import environment

PARTS = ("data wait", "copy", "views", "forward", "loss", "backward", "optimiser", "rest")


class Enough(Exception):  # noqa: N818  (leaving is no error)
    """Leaves the loop: as many steps as wanted are done."""


class Stopwatch:
    """Shares the time between calls out to the parts of a step: by CUDA events on a GPU, by the clock on a CPU.

    On a GPU a part's time is the device's own, so `data wait` is what the device waits, not what the host does.
    """

    def __init__(self) -> None:
        self.cuda = False
        self.step, self.part = 0, "rest"
        self.marks: list[tuple[int, str, Any]] = []

    def begin(self, part: str) -> None:
        """From here on time belongs to `part`."""
        if self.cuda:
            stamp: Any = torch.cuda.Event(enable_timing=True)
            stamp.record()
        else:
            stamp = time.perf_counter()
        self.part = part
        self.marks.append((self.step, part, stamp))

    def around(self, part: str, function: Callable[..., Any], then: str | None = None) -> Callable[..., Any]:
        """Returns `function` with its time in `part`; after it `then` goes on, or the part before."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.part
            self.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.begin(then or before)

        return timed

    def seconds(self, first: int) -> list[dict[str, float]]:
        """Returns the seconds of each part, a dict a step, from the step `first` on; not of one still going on."""
        if self.cuda:
            torch.cuda.synchronize()
        steps: dict[int, dict[str, float]] = {}
        for (step, part, start), (_, _, end) in zip(self.marks, self.marks[1:], strict=False):
            taken = start.elapsed_time(end) / 1e3 if self.cuda else end - start
            parts = steps.setdefault(step, dict.fromkeys(PARTS, 0.0))
            parts[part] += taken
        return [parts for step, parts in sorted(steps.items()) if first <= step < self.step]


@dataclass
class Measured:
    """What a run of the loop showed, after its warm-up."""

    rows: int  # of the batch
    start_s: float  # from the end of the imports to the first batch
    input_s: float  # of that: to find the images, start the workers and have the batch
    steps: list[dict[str, float]] = field(default_factory=list)  # seconds by part
    peak_bytes: int | None = None  # of the device, CUDA only

    def step_s(self) -> list[float]:
        """Returns the seconds of each step."""
        return [sum(parts.values()) for parts in self.steps]


def about(repeats: int, cuda: bool) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    found = environment(torch.get_num_threads(), repeats)
    return found | ({"device": f"GPU: {torch.cuda.get_device_name()}"} if cuda else {})


def run(argv: Sequence[str], steps: int, warmup: int = 0, model_only: bool = False) -> Measured:
    """Trains `steps` steps after `warmup`, of `pretrain.py *argv`, and returns what they took.

    Args:
        steps: measured ones; 0 goes up to the first batch only.
        argv: recipe and flags as on the command line, but for --out: the run folder is temporary.
        model_only: repeat the first batch, already on the device: what a step takes if data cost nothing.

    Raises:
        RuntimeError: the command is refused, or the recipe is shorter than a step after the warm-up.
    """
    import pretrain
    from training import stop

    stop.unblock()  # a benchmark keeps nothing: whoever ends it need not wait
    watch = Stopwatch()
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        found = _attach(stack, watch, warmup + steps, model_only)
        quiet = ["--out", out, "--heatmap-every", "0", "--no-evaluate", "--save-every", str(10**9)]
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(said))
        try:
            code = pretrain.main([*argv, *quiet])
        except Enough:
            code = 0
        except SystemExit as leaving:  # tyro's way
            code = leaving.code
        if code or watch.step <= (warmup + 1 if steps else 0):
            raise RuntimeError(f"pretrain.py {' '.join(argv)}: exit code {code}, {watch.step} steps\n{said.getvalue()}")
    seconds = watch.seconds(warmup + 1)
    peak = torch.cuda.max_memory_allocated() if watch.cuda else None
    gc.collect()
    if watch.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    input_s = found["opened"] + found["first"] - found["asked"]
    return Measured(found["rows"], found["first"] - found["imported"], input_s, seconds, peak)


def _attach(stack: ExitStack, watch: Stopwatch, last: int, model_only: bool) -> dict[str, Any]:
    """Wraps the functions that the loop calls; returns a dict that the run fills."""
    import data.loader
    from data import resident
    from data.ahead import Copy
    from objectives import backward
    from training import command

    found: dict[str, Any] = {}
    read, opened = command.read, data.loader.open_images

    def patch(place: Any, name: str, new: Any) -> None:
        stack.enter_context(mock.patch.object(place, name, new))

    def note_recipe(*args: Any) -> Any:
        found["imported"] = time.perf_counter()
        asked = read(*args)
        found["rows"] = asked.recipe.batch_size
        watch.cuda = asked.place.device != "cpu" and torch.cuda.is_available()
        kind: Any = asked.recipe.objective.func
        patch(kind, "embed", watch.around("forward", kind.embed))
        patch(kind, "terms", with_backward(kind.terms))
        patch(kind, "after_step", watch.around("rest", kind.after_step, then="rest"))
        return asked

    def with_backward(terms: Callable[..., Any]) -> Callable[..., Any]:
        """Its own backward belongs to the loss: it ends where the embeddings have their gradient."""

        def timed(objective: Any, z: dict[str, Tensor], progress: float) -> Any:
            watch.begin("loss")
            for value in z.values():
                if value.requires_grad:
                    value.register_hook(lambda _grad: watch.begin("backward"))
            return terms(objective, z, progress)

        return timed

    def open_images(*args: Any) -> Any:
        began = time.perf_counter()
        images = opened(*args)
        found["opened"] = time.perf_counter() - began
        return images

    def started(start: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def begun(loader: Any) -> Iterator[Any]:
            found["asked"] = time.perf_counter()
            return counted(start(loader))  # started here, as without us

        return begun

    def counted(batches: Iterator[Any]) -> Iterator[Any]:
        batch = None
        while True:
            watch.step += 1
            watch.begin("data wait")
            if watch.step > last > 0:
                raise Enough
            if batch is None or not model_only:
                batch = next(batches, None)
            if batch is None:
                return
            found.setdefault("first", time.perf_counter())
            if last == 0:
                raise Enough
            watch.begin("rest")
            yield batch

    patch(command, "read", note_recipe)
    patch(data.loader, "open_images", open_images)
    for kind in (data.loader.Loader, resident.ResidentLoader):
        patch(kind, "__iter__", started(kind.__iter__))
    patch(Copy, "wait", watch.around("copy", Copy.wait))
    patch(data.loader, "finished", watch.around("views", data.loader.finished))
    patch(resident.ResidentLoader, "_make", watch.around("views", resident.ResidentLoader._make))
    for way in (backward.WholeBatch, backward.Chunks):
        patch(way, "__call__", watch.around("backward", way.__call__, then="optimiser"))
    return found
