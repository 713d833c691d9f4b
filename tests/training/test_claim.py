"""One process at a time trains a run: in real processes, by the system's own locks."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.runs import QUIET, ROOT, TINY, environment, finish, losses, run, start, wait_for_step, weights
from tests.training.test_stop import line, running
from training import claim, stop

HOLDER = """
import sys, time
from pathlib import Path
from training import claim
folder, beats = Path(sys.argv[1]), int(sys.argv[2])
pulse = folder / "pulse"
claim.take(folder, pulse, print)
print("held", flush=True)
for beat in range(beats):
    pulse.write_text(str(beat))
    time.sleep(0.05)
if beats == 0:
    time.sleep(60)
"""
LONG_AGO = 1000.0  # seconds: longer than a run may take to its first beat


def take(folder: Path, said: list[str] | None = None, patience: float = 1.0) -> None:
    claim.take(folder, folder / "pulse", (said if said is not None else []).append, patience)


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    held: dict[Path, int] = {}
    monkeypatch.setattr(claim, "_held", held)
    yield
    for file in held.values():
        os.close(file)


def elsewhere(folder: Path, ago: float) -> None:
    """Has the holder's note say that it runs on another host, since `ago` seconds."""
    note = json.loads((folder / claim.NAME).read_text())
    (folder / claim.NAME).write_text(json.dumps(note | {"host": "n9", "since": time.time() - ago}))


@pytest.mark.parametrize(
    ("beats", "host", "ago"),
    [(1000, "n9", LONG_AGO), (0, "n9", 5.0), (0, None, 0.0)],
    ids=["it beats", "it has only just started", "on this host"],
)
def test_a_living_holder_is_named_and_keeps_others_out(
    tmp_path: Path, beats: int, host: str | None, ago: float
) -> None:
    said: list[str] = []
    with running(HOLDER, str(tmp_path), str(beats)) as process:
        assert line(process) == "held"
        if host:
            elsewhere(tmp_path, ago)
        who = f"process {process.pid} on {host or platform.node()}, since "
        with pytest.raises(ValueError, match=f"being trained by {who}.*one process trains a run"):
            take(tmp_path, said, patience=0.5)
        assert who in said[0]
    assert len(said) == 1


def test_one_that_ends_meanwhile_is_waited_for(tmp_path: Path) -> None:
    """As after a signal, while the checkpoint is still being written."""
    with running(HOLDER, str(tmp_path), "10") as process:
        assert line(process) == "held"
        began = time.monotonic()
        take(tmp_path, patience=30)
        assert time.monotonic() - began < 20
        assert (tmp_path / claim.NAME).read_text().count("pid") == 1  # the note names its new holder only
        assert str(process.pid) not in (tmp_path / claim.NAME).read_text()


def test_a_holder_without_a_sign_of_life_keeps_nobody_from_resuming(tmp_path: Path) -> None:
    """A lock that outlived its host, or a rank that is cut off from its cluster."""
    said: list[str] = []
    with running(HOLDER, str(tmp_path), "0") as process:
        assert line(process) == "held"
        elsewhere(tmp_path, LONG_AGO)
        take(tmp_path, said, patience=0.3)
        assert process.poll() is None
    assert "no sign of life for 0.3 s" in said[-1]


@pytest.mark.parametrize(("restart", "refused"), [("0", True), ("1", False)])
def test_a_job_started_again_is_not_refused_for_what_slurm_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: str, refused: bool
) -> None:
    """A node may come back to Slurm with the old start alive; if the new one had given up, nobody would train."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    said: list[str] = []
    with running(HOLDER, str(tmp_path), "1000") as process:
        assert line(process) == "held"
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        with pytest.raises(ValueError, match=r"\(job 7\)") if refused else nullcontext():
            take(tmp_path, said, patience=0.5)
    assert refused or "an earlier start of this job" in said[-1]


def test_a_killed_holder_is_gone_at_once(tmp_path: Path) -> None:
    with running(HOLDER, str(tmp_path), "1000") as process:
        assert line(process) == "held"
        process.send_signal(signal.SIGKILL)
        process.wait()
        said: list[str] = []
        take(tmp_path, said)
    assert said == []


def test_where_there_are_no_locks_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    said: list[str] = []
    for _ in range(2):
        take(tmp_path, said)
    assert said == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    take(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_twice_at_once(undisturbed: Path, tmp_path: Path) -> None:
    """The second is refused. The first, killed, is resumed at once, whatever its data workers still do."""
    out = tmp_path / "out"
    flags = [*TINY, *QUIET, "--workers", "2"]
    first = start(out, *flags)
    try:
        wait_for_step(out, 2, first)
        first.send_signal(signal.SIGSTOP)  # it would be over too soon
        short = "import sys, pretrain; from training import claim; claim.PATIENCE_S = 2"
        short += "; sys.exit(pretrain.main(sys.argv[1:]))"
        command = [sys.executable, "-c", short, "demo", "--out", str(out), *flags]
        second = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert second.returncode == stop.BAD_INPUT_EXIT, second.stderr
        assert f"pretrain.py: --out {out} is being trained by process {first.pid} on " in second.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        finish(first)

    code, text = run(out, *flags)
    assert code == 0, text
    assert "being trained by" not in text
    assert losses(out) == losses(undisturbed)
    assert weights(out) == weights(undisturbed)
