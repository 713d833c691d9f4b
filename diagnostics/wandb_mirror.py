"""wandb as a mirror of the record, which can neither stop nor slow a run.

Everything of wandb happens in one background thread: its import, login, `init`, every log call and the upload. The
training loop only puts items into a bounded queue; when that is full they are dropped and counted. What fails falls
back, with one plain line on stderr: online -> offline (same id, for `wandb sync`) -> nothing but the record.

What was seen of wandb 0.31 and is guarded against: without a key `init` raises, or on a terminal asks; an unreachable
server holds `init` for 90 s, each table for 19 s and `finish` for ever; only a teardown frees the id of a failed
`init`; the stop button interrupts the main thread; after a resume a step that goes backwards is dropped, unless steps
are a metric like others.
"""

import math
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from diagnostics.table import Table

Mode = Literal["off", "offline", "online"]

INIT_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0  # at the end, for what is still queued
FINISH_TIMEOUT_S = 15.0  # then, for wandb's upload
JOIN_MARGIN_S = 5.0
QUEUE_SIZE = 1000  # scalars take 0.3 ms each, a picture 0.2 s

_SECRET = re.compile(r"(^|_)(api_?key|key|token|secret|password|credentials?)$", re.IGNORECASE)


class WandbMirror:
    """Mirrors metrics, pictures and tables to wandb from a background thread; with mode "off" it does nothing.

    The run's id is kept in `folder/wandb_id`, so a resumed run goes on as the same wandb run; wandb's own files are in
    `folder/wandb`. They hold the command line and the host's name, never the environment.
    """

    def __init__(self, folder: Path, mode: Mode, config: Mapping[str, Any], name: str | None, project: str) -> None:
        self._folder = folder
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(QUEUE_SIZE)
        self._ending = threading.Event()
        self._exit_code = 0
        self._dropped = self._failed = 0
        self._tables = True  # until one fails
        self._thread: threading.Thread | None = None
        if mode != "off":
            about = {"id": run_id(folder), "config": without_secrets(config), "name": name, "project": project}
            # A daemon: should wandb hang for good, the interpreter still ends.
            self._thread = threading.Thread(target=self._work, args=(mode, about), name="wandb", daemon=True)
            self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Queues the values of a step; never waits."""
        self._put({"step": step, **values})

    def images(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Queues pictures by name; never waits. The thread reads the files later."""
        self._put({"step": step, **pictures})

    def table(self, step: int, name: str, table: Table) -> None:
        """Queues a table; never waits."""
        self._put({"step": step, name: table})

    def finish(self, exit_code: int) -> dict[str, int]:
        """Waits at most half a minute for what is queued and for the upload.

        Returns:
            how many items were dropped and how many log calls failed, each only if there were any.
        """
        if self._thread is None:
            return {}
        self._exit_code = exit_code
        self._ending.set()
        # wandb's own finish_timeout ends a dead upload; the join is bounded for a wandb that does not keep to it.
        self._thread.join(DRAIN_TIMEOUT_S + FINISH_TIMEOUT_S + JOIN_MARGIN_S)
        if self._thread.is_alive():
            _say("did not finish in time; its files are in the run folder")
        counts = {"wandb_dropped": self._dropped + self._queue.qsize(), "wandb_failed": self._failed}
        return {key: count for key, count in counts.items() if count}

    def _put(self, item: dict[str, Any]) -> None:
        if self._thread is None or not self._thread.is_alive():
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._dropped += 1

    def _work(self, mode: Mode, about: dict[str, Any]) -> None:
        """The thread: nothing of it raises, and nothing of it is waited for but by `finish`."""
        try:
            import wandb
        except Exception as error:
            _say(f"cannot be imported ({_brief(error)}): metrics.jsonl is the only record")
            return
        run = self._start(wandb, mode, about)
        if run is None:
            return
        give_up = float("inf")
        while time.monotonic() < give_up:
            try:
                self._log(wandb, run, self._queue.get(timeout=0.2))
            except queue.Empty:
                if self._ending.is_set():
                    break
            if self._ending.is_set() and give_up == float("inf"):
                give_up = time.monotonic() + DRAIN_TIMEOUT_S
        try:
            run.finish(exit_code=self._exit_code)
        except Exception as error:
            _say(f"upload not finished ({_brief(error)}); `wandb sync --include-online` completes it")
        _teardown(wandb)

    def _start(self, wandb: Any, mode: Mode, about: dict[str, Any]) -> Any:
        """A running wandb run, offline if online cannot be had, or None."""
        if mode == "online":
            try:
                wandb.setup(settings=_settings(wandb))  # before the login, which would print
                if not wandb.login(prompt=False, verify=False):
                    raise ConnectionError("no API key; `wandb login` stores one")
                return self._init(wandb, "online", about)
            except Exception as error:
                _say(f"online failed ({_brief(error)}); offline instead, for `wandb sync`")
                _teardown(wandb)
        try:
            return self._init(wandb, "offline", about)
        except Exception as error:
            _say(f"offline failed ({_brief(error)}): metrics.jsonl is the only record")
            _teardown(wandb)
            return None

    def _init(self, wandb: Any, mode: Mode, about: dict[str, Any]) -> Any:
        run = wandb.init(mode=mode, dir=self._folder, resume="allow", settings=_settings(wandb), **about)
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _log(self, wandb: Any, run: Any, item: dict[str, Any]) -> None:
        is_table = any(isinstance(value, Table) for value in item.values())
        if is_table and not self._tables:
            self._dropped += 1
            return
        try:
            run.log({key: _as_wandb(wandb, value) for key, value in item.items()})
        except Exception as error:
            self._failed += 1
            self._tables = self._tables and not is_table
            if self._failed == 1:
                _say(f"logging failed ({_brief(error)}); the run goes on{', without tables' if is_table else ''}")


def _as_wandb(wandb: Any, value: Any) -> Any:
    """A file as a picture, a table as a table, anything else as it is."""
    if isinstance(value, Path):
        return wandb.Image(str(value))
    if isinstance(value, Table):
        # What is not finite is left out: wandb writes it as NaN, which is not JSON, and no browser reads the table.
        known = [[None if isinstance(x, float) and not math.isfinite(x) else x for x in row] for row in value.rows]
        return wandb.Table(columns=list(value.columns), data=known)
    return value


def run_id(folder: Path) -> str:
    """The wandb id kept in `folder/wandb_id`; a new one is made and kept if there is none."""
    kept = folder / "wandb_id"
    if not kept.exists():
        unfinished = folder / ".wandb_id.tmp"
        unfinished.write_text(secrets.token_hex(4) + "\n")
        unfinished.replace(kept)
    return kept.read_text().strip()


def without_secrets(config: Any) -> Any:
    """The config with every text under a key that names a secret (`api_key`, `HF_TOKEN`, ...) replaced."""
    if isinstance(config, Mapping):
        return {
            key: "(left out)" if isinstance(value, str) and _SECRET.search(str(key)) else without_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [without_secrets(item) for item in config]
    return config


def _settings(wandb: Any) -> Any:
    """Quiet, bounded in time, and without code, git remote (whose address may hold a password) or stop button."""
    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        stop_fn=lambda: _say("the stop button does not stop this run: end its job instead"),
    )


def _teardown(wandb: Any) -> None:
    try:
        wandb.teardown()
    except Exception as error:
        _say(f"could not be shut down ({_brief(error)}); the run is not affected")


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _say(text: str) -> None:
    print(f"wandb: {text}", file=sys.stderr, flush=True)
