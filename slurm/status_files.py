"""What a run folder says of its run, from small files and the ends of big ones; what is not there says nothing."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import history

TAILS = (1 << 16, 1 << 20, 1 << 23)  # bytes from the end in which a probe's line is looked for, one after the other
DEPTH = 3
SKEW_S = 60.0  # by which the clocks of two nodes may differ, or rank 0 may outlive the rank that failed
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class RunFiles:
    """A run folder as it stood when it was read."""

    path: Path
    events: list[dict[str, Any]]  # slurm/history.jsonl
    heartbeat: dict[str, Any]  # of the newest start; {}: that has not reached its first step
    total_steps: int | None
    done: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> RunFiles:
        """Returns what the folder says now."""
        events: list[dict[str, Any]] = []
        with contextlib.suppress(OSError):  # of somebody else
            events = [event for event in history.read(path) if isinstance(event, dict)]
        heartbeat = _json(path / "heartbeat.json")
        total = heartbeat.get("total_steps")
        since = max((event["time"] for event in events if event.get("event") in ("submitted", "start")), default=0.0)
        if heartbeat.get("time", 0.0) < since:
            heartbeat = {}
        return cls(path, events, heartbeat, total, _json(path / "done.json") if history.is_done(path) else None)

    @cached_property
    def job(self) -> str:
        """The newest job, by the first that was heard of it; "" for a run that never was one."""
        jobs = dict.fromkeys(event["job"] for event in self.events if event.get("job"))
        return next(reversed(jobs), "")

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """The `start` events."""
        return [event for event in self.events if event.get("event") == "start"]

    @cached_property
    def since(self) -> float | None:
        """When the run last gave a sign of life, or else was submitted; seconds since 1970."""
        times = [event["time"] for event in self.events if event.get("event") in ("submitted", "start")]
        times += [self.heartbeat["time"]] if "time" in self.heartbeat else []
        return max(times, default=None)

    @cached_property
    def ending(self) -> dict[str, Any] | None:
        """The event by which the newest start ended; None if it goes on, or ended without a word."""
        return None if self.outlived else self._told_end

    @cached_property
    def outlived(self) -> bool:
        """Whether the run goes on although its newest start has ended: that was refused, another trains it."""
        end = self._told_end
        return end is not None and self.heartbeat.get("time", 0.0) >= end["time"] + SKEW_S

    @cached_property
    def _told_end(self) -> dict[str, Any] | None:
        told = [event for event in self.events if event.get("event") in ("submitted", "start", "stop", "failed")]
        return told[-1] if told and told[-1]["event"] in ("stop", "failed") else None

    @property
    def phase(self) -> str:
        """The heartbeat's phase, "" without one."""
        return self.heartbeat.get("phase", "")

    def why_ended(self) -> str:
        """Returns why the newest start ended and what became of the job, "" if nobody said so."""
        event = self.ending
        if event is None:
            return ""
        if event["event"] == "failed":
            # one without a rank is slurm/after.py's
            who = f"rank {event['rank']} on {event['host']} failed: " if "rank" in event else ""
            reason = f"{who}{event.get('reason')}"
        else:
            reason = f"stopped by {event.get('signal') or 'another rank'}"
        return f"{reason}; {event.get('verdict')}"

    def attempt(self) -> int | None:
        """Returns how often the run was started, None if it never was."""
        count = max(len(self.starts), self.heartbeat.get("attempt", 0))
        return count or len(self._attempts) or None

    def nodes(self) -> str:
        """Returns where the newest start ran."""
        if self.starts and self.starts[-1].get("nodes"):
            return self.starts[-1]["nodes"]
        if "host" in self.heartbeat:
            return self.heartbeat["host"]
        return ",".join(self._attempts[-1].get("nodes", [])) if self._attempts else ""

    def step(self) -> int | None:
        """Returns the steps done: at the heartbeat, else at the last start or line of metrics."""
        if self.done is not None:
            return self.done.get("step")
        if "step" in self.heartbeat:
            return self.heartbeat["step"]
        saved = [event["step"] for event in self.events if "step" in event]
        return saved[-1] if saved else self._metrics[0].get("step")

    def probe(self) -> tuple[str, float] | None:
        """Returns the first linear accuracy of evaluation.json, else RankMe of the newest probe."""
        rows = _json(self.path / "evaluation.json").get("rows") or [{}]
        for name, value in rows[0].get("metrics", {}).items():
            if name.startswith("linear"):
                return "linear", value["mean"]
        numbers = {key[6:]: value for key, value in self._metrics[1].items() if key.startswith("probe/")}
        name = "rankme" if "rankme" in numbers else next(iter(numbers), "")
        return (name, numbers[name]) if name else None

    def log(self) -> Path | None:
        """Returns rank 0's standard error, of the newest submission; None if there is no such file."""
        if not self.job:
            return None
        named = [Path(event["log"]) for event in self.events if event.get("job") == self.job and event.get("log")]
        name = named[-1].name if named else f"{self.job}_0_log.err"
        folders = (self.path, self.path.parent)  # the logs of a sweep lie beside its members
        places = [*named[-1:], *(folder / history.FOLDER / name for folder in folders)]
        return next((place for place in places if place.is_file()), None)

    def is_alive_here(self) -> bool:
        """Returns whether the process of the heartbeat runs on this host."""
        host, pid = platform.node(), self.heartbeat.get("pid")
        if pid is None or self.heartbeat.get("host") not in (host, host.split(".")[0]):
            return False
        started = _started(pid)
        return started is not None and started <= self.heartbeat["time"] + 1  # else the number is another's by now

    @cached_property
    def _metrics(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last line of metrics.jsonl and the last with a probe's numbers."""
        last: dict[str, Any] = {}
        for size in TAILS:
            for line in reversed(tail(self.path / "metrics.jsonl", size).splitlines()):
                if last and '"probe/' not in line:
                    continue
                with contextlib.suppress(ValueError):  # the first line may be cut, the last may be half written
                    record = json.loads(line)
                    last = last or record
                    if '"probe/' in line:
                        return last, record
        return last, {}

    @cached_property
    def _attempts(self) -> list[dict[str, Any]]:
        return _json(self.path / "environment.json").get("attempts", [])


def find_runs(folder: Path) -> Iterator[Path]:
    """Yields the run folders at most three folders below `folder`, or that itself, in the order of their names."""
    yield from _find(folder, DEPTH)


def _find(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if (folder / "recipe.json").is_file() or (folder / history.FOLDER / history.NAME).is_file():
            yield folder
            return
        below = [entry for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."] if depth else []
    except OSError:  # a folder that may not be looked into
        return
    for entry in sorted(below, key=lambda entry: _natural(entry.name)):
        yield from _find(folder / entry.name, depth - 1)


def tail(path: Path, size: int) -> str:
    """Returns the last `size` bytes of a file as text, "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def last_words(log: Path | None) -> str:
    """Returns the last line of a log that is not empty, as a terminal would show it."""
    lines = tail(log, TAILS[0]).replace("\r", "\n").split("\n") if log else []
    return next((text for text in map(clean, reversed(lines)) if text), "")


def clean(text: str) -> str:
    """Returns the text without control characters and colours."""
    return CONTROL.sub("", text.replace("\t", " ")).strip()


def _natural(name: str) -> list[tuple[int, str]]:
    """Returns what sorts seed=2 before seed=10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _started(pid: int) -> float | None:
    """Returns when a process was started, in seconds since 1970; 0 where only its being there is known, None if it is
    not there."""
    if not Path("/proc/stat").is_file():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return 0.0
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    return int(boot[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK") if boot else 0.0
