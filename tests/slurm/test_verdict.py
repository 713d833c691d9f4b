"""Whether a job comes back: each row of the table in slurm/verdict.py, without a cluster (test_task.py has one)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from slurm import after, after_eval, history, verdict
from slurm.task import job_id
from slurm.verdict import PERSON, REQUEUED, UNASKED, on_failure, on_stop

RUNNING = {"JobState": "RUNNING", "PreemptTime": "None", "Restarts": "0"}
PREEMPTED = RUNNING | {"PreemptTime": "2026-01-01T00:00:00"}
CANCELLED = {"JobState": "COMPLETING", "PreemptTime": "None", "Restarts": "0"}


@pytest.mark.parametrize(
    ("facts", "notice", "words"),
    [
        (RUNNING, signal.SIGUSR2, REQUEUED),
        (RUNNING, None, REQUEUED),  # another rank was told
        (PREEMPTED, signal.SIGTERM, REQUEUED),
        (PREEMPTED, signal.SIGUSR2, REQUEUED),
        (RUNNING, signal.SIGTERM, "a signal from a person"),
        (CANCELLED, signal.SIGTERM, "the job is COMPLETING"),
        (CANCELLED, signal.SIGUSR2, "the job is COMPLETING"),  # cancelled after the notice
        (CANCELLED | {"Restarts": "1"}, signal.SIGTERM, "Slurm requeues it by itself"),
        ({}, signal.SIGUSR2, "unknown to Slurm"),
    ],
)
def test_a_stop(facts: dict[str, str], notice: signal.Signals | None, words: str) -> None:
    calls = []
    found = on_stop(facts, notice, 0, 1000, lambda: calls.append(1) or REQUEUED)
    assert words in found
    assert bool(calls) == (words == REQUEUED)


@pytest.mark.parametrize(
    ("code", "step", "fruitless", "restart", "state", "words"),
    [
        (1, 10, 0, 0, "RUNNING", REQUEUED),  # progress was made
        (-9, 10, 1, 3, "RUNNING", REQUEUED),  # once without is forgiven
        (1, 10, 2, 3, "RUNNING", "2 starts failed at step 10"),
        (1, 0, 1, 0, "RUNNING", "before anything was saved"),
        (2, 10, 0, 0, "RUNNING", "would fail again"),
        (70, 10, 0, 0, "RUNNING", "would fail again"),
        (74, 10, 0, 0, "RUNNING", "would fail again"),
        (1, 10, 0, 1000, "RUNNING", "restarted 1000 times"),
        (1, 10, 0, 0, "unknown to Slurm", "the batch script decides"),
        (-15, 10, 0, 0, "COMPLETING", "the job is COMPLETING"),  # Slurm is ending it
    ],
)
def test_a_failure(code: int, step: int, fruitless: int, restart: int, state: str, words: str) -> None:
    calls = []
    found = on_failure(code, step, fruitless, restart, 1000, lambda: state, lambda: calls.append(1) or REQUEUED)
    assert words in found
    assert bool(calls) == (words == REQUEUED)


def test_the_cap_on_restarts() -> None:
    assert "restarted 5 times" in on_stop(RUNNING, signal.SIGUSR2, 5, 5, lambda: REQUEUED)


def test_the_last_member_of_an_array_is_not_the_array() -> None:
    env = {"SLURM_JOB_ID": "52", "SLURM_ARRAY_JOB_ID": "52", "SLURM_ARRAY_TASK_ID": "3"}
    assert job_id(env) == "52_3"
    assert job_id({"SLURM_JOB_ID": "7"}) == "7"
    assert job_id({}) == ""


BATCH = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}


@pytest.mark.parametrize(
    ("events", "code", "words"),
    [
        ([], 137, REQUEUED),  # nobody was left to decide
        ([("failed", REQUEUED)], 1, ""),
        ([("failed", UNASKED)], 1, REQUEUED),  # cut off from Slurm
        ([("stop", PERSON)], 75, ""),  # all tasks were stopped
        ([("stop", PERSON)], 137, REQUEUED),  # srun stopped them, since one was killed
        ([("stop", REQUEUED)], 75, ""),
        ([], 0, ""),
        ([], 2, "would fail again"),
    ],
)
def test_what_the_batch_script_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: list[tuple[str, str]],
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(verdict, "job_facts", lambda job: RUNNING)
    monkeypatch.setattr(verdict, "requeue", lambda job: REQUEUED)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"step_00000010.{'0' * 32}.pt").touch()
    history.append(tmp_path, "failed", job="7", restart=0, verdict=REQUEUED, progress=True)  # of the start before
    history.append(tmp_path, "start", job="7", restart=1, step=0)
    for event, found in events:
        history.append(tmp_path, event, job="7", restart=1, verdict=found, step=10)
    assert after.main(["--run", str(tmp_path), "--code", str(code)], BATCH) == code
    told = capsys.readouterr().err
    assert words in told
    assert bool(told) == bool(words)


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (RUNNING, 75, REQUEUED),
        (PREEMPTED, 75, REQUEUED),
        (CANCELLED, 75, "the job is COMPLETING"),
        (RUNNING, 2, ""),
        (RUNNING, 0, ""),
    ],
)
def test_whether_an_evaluation_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], facts: dict[str, str], code: int, words: str
) -> None:
    asked = []
    monkeypatch.setattr(verdict, "job_facts", lambda job: facts)
    monkeypatch.setattr(verdict, "requeue", lambda job: asked.append(job) or REQUEUED)
    assert after_eval.main(["--code", str(code)], BATCH) == code
    told = capsys.readouterr().err
    assert words in told
    assert bool(told) == bool(words)
    assert asked == (["7"] if words == REQUEUED else [])
