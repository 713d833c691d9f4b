"""The progress of a run: one live line on a terminal, otherwise a plain line every half minute for the log file."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

LIVE_INTERVAL_S = 0.5  # how often the live line is redrawn


class Progress:
    """Says epoch, step, loss, learning rate, images/s, data wait, time left and memory. Rank 0 only.

    Between two lines it costs about a microsecond a step. It never waits for a device: `loss` must be a number already.

    Args:
        total_steps: optimiser steps of the whole run.
        start_step: steps done before this attempt.
        images_per_step: the global batch size, an image counted once however many views it has.
        steps_per_epoch: optimiser steps.
        interval: seconds between plain lines; the first and the last step always have one.
        stream: where to write; a terminal gets the live line.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        images_per_step: int,
        steps_per_epoch: int,
        interval: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._start = total_steps, start_step
        self._images_per_step, self._steps_per_epoch = images_per_step, steps_per_epoch
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._bar = self._live_bar() if self._stream.isatty() else None
        self._interval = interval if self._bar is None else LIVE_INTERVAL_S
        self._loss: float | None = None
        self._lr: float | None = None
        self._wait = 0.0
        self._said_step, self._said_at = start_step, clock()  # the window that rates are measured over
        self._steady: tuple[int, float] | None = None  # after the first step, which compiles and fills caches

    def update(self, step: int, loss: float | None = None, lr: float | None = None, data_wait: float = 0.0) -> None:
        """Notes that `step` steps are done and says so when it is time.

        Args:
            loss, lr: the newest known; None keeps the one before.
            data_wait: seconds this step waited for its batch.
        """
        self._loss = self._loss if loss is None else loss
        self._lr = self._lr if lr is None else lr
        self._wait += data_wait
        now = self._clock()
        first = self._steady is None
        if self._steady is None:
            self._steady = (step, now)
        if not (first or step >= self._total or now - self._said_at >= self._interval):
            return
        line = self._line(step, now)
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.n = step
            self._bar.refresh()
        self._said_step, self._said_at, self._wait = step, now, 0.0

    def say(self, text: str) -> None:
        """Writes a line of its own, above the live line if there is one."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def close(self) -> None:
        """Leaves the live line standing and ends it; without one there is nothing to do."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, step: int, now: float) -> str:
        seconds = max(now - self._said_at, 1e-9)
        parts = [f"epoch {(max(step, 1) - 1) // self._steps_per_epoch + 1}/{-(-self._total // self._steps_per_epoch)}"]
        if self._bar is None:
            parts.append(f"step {step}/{self._total}")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._lr is not None:
            parts.append(f"lr {self._lr:.3g}")
        parts.append(f"{(step - self._said_step) * self._images_per_step / seconds:,.0f} images/s")
        parts.append(f"data wait {self._wait / seconds:.0%}")
        parts.append(f"ETA {self._time_left(step, now)}")
        parts.append(memory())
        return ", ".join(parts)

    def _time_left(self, step: int, now: float) -> str:
        assert self._steady is not None
        steps, seconds = step - self._steady[0], now - self._steady[1]
        if step >= self._total:
            return duration(0)
        return duration((self._total - step) * seconds / steps) if steps else "?"

    def _live_bar(self) -> Any:
        from tqdm import tqdm  # only a terminal needs it

        return tqdm(
            total=self._total,
            initial=self._start,
            file=self._stream,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}",
        )


def duration(seconds: float) -> str:
    """Seconds as 0:42, 1:05:09 or 2 d 03:10."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def memory() -> str:
    """What this process holds in memory and, with CUDA in use, the most its tensors have held on the GPU."""
    text = f"RSS {resident_bytes() / 2**30:.1f} GiB"
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        text += f", GPU peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return text


def resident_bytes() -> int:
    """Resident memory of this process now; where there is no /proc (macOS), the most it has been."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
