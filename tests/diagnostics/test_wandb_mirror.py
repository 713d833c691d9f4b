"""The mirror where wandb hangs, breaks or is missing, which no real one shows on demand: a stand-in plays it."""

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from diagnostics import wandb_mirror
from diagnostics.record import Record, read_events
from diagnostics.wandb_mirror import WandbMirror, without_secrets


class FakeRun:
    """What the mirror uses of a wandb run."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        self.slow = threading.Event()
        self.slow.set()

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, item: dict[str, Any]) -> None:
        self.slow.wait(30)
        if item.get("loss") == -1:
            raise RuntimeError("broken pipe")
        self.logged.append(item)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in for the wandb module, whose run can be made slow."""
    run = FakeRun()
    module = types.SimpleNamespace(
        run=run,
        init=lambda **_: run,
        Settings=lambda **settings: settings,
        Image=lambda path: ("image", path),
        Table=lambda columns, data: ("table", columns, data),
        teardown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_full_queue_drops_and_counts_and_never_waits(
    fake: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(wandb_mirror, "QUEUE_SIZE", 5)
    fake.run.slow.clear()
    mirror = WandbMirror(tmp_path, "offline", {}, None, "p")
    for step in range(100):  # would stand still for 30 s a call if it waited
        mirror.metrics(step, {"loss": 1.0})
    fake.run.slow.set()
    counts = mirror.finish(3)
    assert counts["wandb_dropped"] + len(fake.run.logged) == 100
    assert 5 <= len(fake.run.logged) <= 7
    assert fake.run.exit_code == 3


def test_an_error_of_a_log_call_is_said_once_and_counted(
    fake: types.SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = WandbMirror(tmp_path, "offline", {}, None, "p")
    for step, loss in enumerate([1.0, -1.0, 2.0, -1.0]):
        mirror.metrics(step, {"loss": loss})
    mirror.images(4, {"picture": tmp_path / "m.png"})
    assert mirror.finish(0) == {"wandb_failed": 2}
    assert [item.get("loss") for item in fake.run.logged] == [1.0, 2.0, None]
    assert fake.run.logged[-1] == {"step": 4, "picture": ("image", str(tmp_path / "m.png"))}
    stderr = capsys.readouterr().err
    assert stderr.count("broken pipe") == stderr.count("\n") == 1


def test_a_wandb_that_hangs_for_good_is_left_behind(
    fake: types.SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("DRAIN_TIMEOUT_S", "FINISH_TIMEOUT_S", "JOIN_MARGIN_S"):
        monkeypatch.setattr(wandb_mirror, name, 0.1)
    hanging = threading.Event()
    fake.init = lambda **_: hanging.wait(60)
    mirror = WandbMirror(tmp_path, "offline", {}, None, "p")
    mirror.metrics(1, {"loss": 1.0})
    assert mirror.finish(0) == {"wandb_dropped": 1}
    assert not hanging.is_set()
    assert "did not finish in time" in capsys.readouterr().err
    assert mirror._thread is not None
    assert mirror._thread.daemon, "would hold the interpreter"
    hanging.set()
    mirror._thread.join(30)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_without_wandb_installed_the_run_goes_on(
    mode: wandb_mirror.Mode,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes its import fail
    mirror = WandbMirror(tmp_path, mode, {}, None, "p")
    mirror.metrics(1, {"loss": 1.0})
    mirror.finish(0)
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert "cannot be imported" in stderr


def test_secrets_are_left_out_of_the_config_at_any_depth() -> None:
    config = {
        "lr": 0.1,
        "WANDB_API_KEY": "x",
        "data": [{"hf_token": "x", "root": "here"}],
        "password": "x",
        "class_token": True,
        "tokenizer": "simple",
        "keys": "qkv",
    }
    clean = without_secrets(config)
    assert clean["WANDB_API_KEY"] == clean["password"] == clean["data"][0]["hf_token"] == "(left out)"
    assert clean == {
        **config,
        "WANDB_API_KEY": "(left out)",
        "data": [{"hf_token": "(left out)", "root": "here"}],
        "password": "(left out)",
    }


def test_a_table_is_mirrored_and_a_wandb_without_tables_costs_only_it(
    fake: types.SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record(tmp_path / "whole", "offline")
    record.table(7, "hardest", ("image", "caption"), [(3, "a moon"), (4, "a star")])
    record.finish(0)
    assert fake.run.logged == [
        {"step": 7, "hardest": ("table", ["image", "caption"], [[3, "a moon"], [4, "a star"]])},
    ]
    assert capsys.readouterr().err == ""

    tried = []

    def broken(**_: object) -> None:
        tried.append(1)
        raise TypeError("no such table")

    fake.Table = broken
    record = Record(tmp_path / "broken", "offline")
    for step in (7, 8, 9):  # an unreachable server would hold each for 19 s
        record.table(step, "hardest", ("image",), [(3,)])
    record.metrics(7, {"loss": 1.0})
    record.finish(0)
    assert tried == [1]
    assert fake.run.logged[1:] == [{"step": 7, "loss": 1.0}]
    assert (
        capsys.readouterr().err == "wandb: logging failed (TypeError: no such table); the run goes on, without tables\n"
    )
    end = read_events(tmp_path / "broken")[-1]
    assert (end["wandb_failed"], end["wandb_dropped"]) == (1, 2)


def test_the_end_of_a_record_says_what_the_mirror_lost(fake: types.SimpleNamespace, tmp_path: Path) -> None:
    record = Record(tmp_path, "offline")
    record.metrics(1, {"loss": -1.0})
    record.finish(0)
    end = read_events(tmp_path)[-1]
    assert (end["event"], end["wandb_failed"]) == ("end", 1)
