"""The record of a run: `metrics.jsonl` and `events.jsonl`, always, on local disk; wandb is only a mirror of it.

One JSON object a line, each written by a single unbuffered append, so a `kill -9` loses at most the line it falls into;
such a torn line is survived by the next attempt (which starts on a new line) and by the reader (which skips it).

A metrics line: {"step": 100, "time": 1760000000.0, "attempt": 1, "loss": 3.2, ...}, time in seconds since 1970.
Attempts count the starts of a run. A resumed run repeats the steps after its checkpoint, and nothing is ever deleted:
`read_metrics` says which lines count. JSON has no NaN: non-finite numbers are the strings "NaN", "Infinity" and
"-Infinity" (null would hide which), and `read_metrics` turns them back.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagnostics.table import Table
from diagnostics.wandb_mirror import Mode, WandbMirror

METRICS, EVENTS = "metrics.jsonl", "events.jsonl"
_OWN_KEYS = ("step", "time", "attempt")


class Record:
    """Writes the record of one attempt of a run; on rank 0 only.

    Args:
        folder: the run folder, made if missing.
        wandb_mode: "off", "offline" (files in `folder/wandb`) or "online". Whatever happens to wandb, the run goes on.
        config: JSON-able description of the run for wandb; anything under a key that looks like a secret is left out.
        name, project: what wandb calls the run and where it files it.
        resume_step: optimiser steps this attempt starts with, noted in `events.jsonl`.
    """

    def __init__(
        self,
        folder: Path,
        wandb_mode: Mode = "off",
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        project: str = "ssl-pretraining",
        resume_step: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        seen = [line.get("attempt") for file in (METRICS, EVENTS) for line in _lines(folder / file)]
        self.attempt = 1 + max((number for number in seen if isinstance(number, int)), default=0)
        self._metrics = _Appender(folder / METRICS)
        self._events = _Appender(folder / EVENTS)
        self.event("start", resume_step=resume_step)
        self._mirror = WandbMirror(folder, wandb_mode, config or {}, name, project)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values at `step` (optimiser steps done); several calls for one step add up.

        Values may be numbers or tensors with one element; the call is where a tensor on a device is waited for.

        Raises:
            ValueError: a value is called step, time or attempt.
        """
        if taken := [key for key in values if key in _OWN_KEYS]:
            raise ValueError(f"a metric cannot be called {taken[0]!r}: each line has its own step, time and attempt")
        numbers = {key: float(value) for key, value in values.items()}
        self._metrics.append({"step": step, "time": time.time(), "attempt": self.attempt, **numbers})
        self._mirror.metrics(step, numbers)

    def event(self, kind: str, **fields: Any) -> None:
        """Appends something that happened once, such as a warning or a save; what JSON lacks is written as text."""
        self._events.append({"event": kind, "time": time.time(), "attempt": self.attempt, **fields})

    def images(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Mirrors pictures (PNG files that stay where they are) by name; they need no line of their own."""
        self._mirror.images(step, pictures)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> None:
        """Mirrors a table by name: a value a column in each row, of one kind in each column; it needs no line here."""
        self._mirror.table(step, name, Table(tuple(columns), [tuple(row) for row in rows]))

    def finish(self, exit_code: int) -> None:
        """Ends the record: the mirror gets a bounded time to upload, then the end is noted and the files closed."""
        mirrored = self._mirror.finish(exit_code)
        self.event("end", exit_code=exit_code, **mirrored)
        self._metrics.close()
        self._events.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run folder, one dict for each step in order, as if the run had never been interrupted.

    A later attempt supersedes what earlier ones logged after its own first step: those steps were repeated, or are
    about to be.
    At one step values add up, those of the newest attempt winning; `attempt` and `time` are of its newest line.
    """
    lines = [line for line in _lines(folder / METRICS) if {"step", "attempt"} <= line.keys()]
    first: dict[int, int] = {}
    for line in lines:
        first[line["attempt"]] = min(line["step"], first.get(line["attempt"], line["step"]))
    steps: dict[int, dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: (line["step"], line["attempt"])):  # stable: file order within an attempt
        if all(line["step"] <= start for attempt, start in first.items() if attempt > line["attempt"]):
            steps.setdefault(line["step"], {}).update({key: _restored(value) for key, value in line.items()})
    return list(steps.values())


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run folder, in the order they were written."""
    return list(_lines(folder / EVENTS))


class _Appender:
    """Appends JSON lines to a file. A full disk costs lines, never the run; it is said once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)  # one write call a line: nothing waits in this process
        self._torn = _ends_torn(path)
        self._lost = 0

    def append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(_plain(line), allow_nan=False, default=str)
        data = ("\n" if self._torn else "").encode() + text.encode() + b"\n"
        try:
            self._torn = self._file.write(data) != len(data)
            problem = "only a part of a line fitted"  # a nearly full disk takes a part without an error
        except OSError as error:
            self._torn, problem = True, str(error)
        if self._torn:
            self._lost += 1
            if self._lost == 1:
                print(f"{self._file.name}: a line is lost ({problem}); the run goes on", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file's last line lacks its end."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a .jsonl file; torn ones are skipped, a missing file has none."""
    if not path.exists():
        return []
    parsed = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:  # torn, or the empty rest after the last newline
            continue
        if isinstance(line, dict):  # a torn line can still be JSON: the "12" of a "12}"
            parsed.append(line)
    return parsed


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _plain(value: Any) -> Any:
    """The value with non-finite floats as strings, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _restored(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
