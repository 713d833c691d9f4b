"""`heartbeat.json`: where a run stands and when it last said so, for `slurm.status` and for a person who wonders."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

NAME = "heartbeat.json"


class Heartbeat:
    """Says the step a run has reached, at most every `interval` seconds; rank 0 only.

    Written beside and renamed, so a reader always finds a whole file; not flushed to the disk, so it costs some 0.1 ms.
    A disk that takes no file is no reason to stop a run: a beat is then left out.

    Args:
        folder: the run folder.
        total_steps: optimiser steps of the whole run.
        images_per_step: the global batch size.
        attempt: the number of this start of the run, from 1.
        interval: seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        total_steps: int,
        images_per_step: int,
        attempt: int,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._draft = folder / NAME, folder / f".{NAME}.tmp"
        self._total, self._images, self._attempt = total_steps, images_per_step, attempt
        self._interval, self._clock = interval, clock
        self._last: tuple[int, float] | None = None  # step and time of the last beat
        self._phase = ""
        self._rate = 0.0  # steps a second

    def beat(self, step: int, phase: str = "training") -> None:
        """Notes that `step` steps are done; a new `phase` ("training", "evaluating", "stopped", "done") is said at
        once."""
        now = self._clock()
        if self._last and phase == self._phase and now - self._last[1] < self._interval:
            return
        if self._last and phase == self._phase:
            self._rate = (step - self._last[0]) / (now - self._last[1])
        self._last, self._phase = (step, now), phase
        content = {
            "time": time.time(),
            "phase": phase,
            "step": step,
            "total_steps": self._total,
            "images_per_second": round(self._rate * self._images, 1),
            "seconds_left": round((self._total - step) / self._rate, 1) if self._rate else None,
            "attempt": self._attempt,
            "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
            "pid": os.getpid(),
        }
        with contextlib.suppress(OSError):
            self._draft.write_text(json.dumps(content) + "\n", encoding="utf-8")
            self._draft.replace(self._path)
