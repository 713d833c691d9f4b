"""What slurm.status says of run folders; no cluster is needed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm.jobs import Job
from slurm.status_files import RunFiles, last_words
from slurm.status_table import table
from tests.slurm.run_folders import NOW, RUNNING, beat, event, look, started


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return started(tmp_path / "run")


# ---- the state


def test_a_run_in_training(run: Path) -> None:
    beat(run)
    row = look(run, RUNNING)
    assert (row["state"], row["why"], row["job"], row["nodes"], row["attempt"]) == ("running", None, "7", "n[1-2]", 1)
    assert (row["step"], row["total_steps"], row["images_per_second"], row["seconds_left"]) == (300, 1000, 2000.4, 5000)


@pytest.mark.parametrize(
    ("job", "state", "why"),
    [
        (Job("PENDING", "Resources"), "pending", "Resources"),
        (Job("COMPLETING"), "completing", None),
        (Job("NODE_FAIL", "NodeDown"), "node fail", "NodeDown"),
        (Job("COMPLETED"), "completed", None),
        (RUNNING, "silent", "no sign of life for 12 min"),
        (Job("RUNNING", "", "n1", 100.0), "running", None),  # a start of which the folder does not know yet
        (None, "stopped", "nobody said why; last sign of life 12 min ago"),
    ],
)
def test_an_old_heartbeat_means_what_slurm_says_of_the_job(run: Path, job: Job, state: str, why: str) -> None:
    beat(run, ago=720)
    row = look(run, job)
    assert (row["state"], row["why"]) == (state, why)
    assert state == "running" or row["seconds_left"] is None


def test_a_job_that_never_reached_its_first_step_is_silent_too(run: Path) -> None:
    assert look(run, RUNNING)["state"] == "silent"
    event(run, "start", 30, restart=1, step=0, nodes="n1")
    assert look(run, RUNNING)["state"] == "starting"


def test_evaluating_says_so_once(run: Path) -> None:
    beat(run, ago=720, phase="evaluating")
    assert (look(run, RUNNING)["state"], look(run, RUNNING)["why"]) == ("evaluating", "for 12 min")


def test_done_whatever_slurm_says(run: Path) -> None:
    (run / "done.json").write_text('{"step": 1000}')
    for job in (None, Job("COMPLETED"), Job("FAILED", "NonZeroExitCode")):
        row = look(run, job)
        assert (row["state"], row["step"], row["total_steps"], row["seconds_left"]) == ("done", 1000, 1000, None)


@pytest.mark.parametrize("job", [None, Job("FAILED", "NonZeroExitCode", "n[1-2]")])
def test_the_verdict_is_told(run: Path, job: Job | None) -> None:
    beat(run, ago=130)
    verdict = {"rank": 1, "host": "n2", "reason": "exit code 1", "verdict": "not requeued, it failed"}
    event(run, "failed", 120, restart=0, step=200, progress=False, **verdict)
    row = look(run, job)
    assert row["state"] == ("failed" if job else "stopped")
    assert row["why"] == "rank 1 on n2 failed: exit code 1; not requeued, it failed"


def test_a_job_that_was_refused_does_not_hide_the_one_that_trains(run: Path) -> None:
    refused = {"rank": 0, "host": "n3", "reason": "bad input", "verdict": "see above"}
    event(run, "failed", 120, job="8", restart=0, step=200, progress=False, **refused)
    beat(run, ago=3)
    assert look(run, Job("FAILED", "NonZeroExitCode", "n3"))["state"] == "running"
    beat(run, ago=130)
    assert look(run, Job("FAILED", "NonZeroExitCode", "n3"))["state"] == "failed"


def test_a_requeued_job_forgets_the_heartbeat_of_its_first_start(run: Path) -> None:
    beat(run, ago=100)
    event(run, "stop", 90, restart=0, step=310, signal="SIGUSR2", verdict="requeued")
    waiting = look(run, Job("PENDING", "BeginTime"))
    assert (waiting["state"], waiting["why"], waiting["attempt"], waiting["nodes"]) == ("pending", "BeginTime", 1, None)
    event(run, "start", 10, restart=1, step=310, nodes="n2")
    again = look(run, Job("RUNNING", "", "n2", 11.0))
    assert (again["state"], again["attempt"], again["nodes"]) == ("starting", 2, "n2")
    assert (again["step"], again["total_steps"], again["seconds_left"]) == (310, 1000, None)


def test_the_newest_submission_counts(run: Path) -> None:
    event(run, "submitted", 50, job="9_3", log="/nowhere/9_3_0_log.err")
    event(run, "start", 40, job="7", restart=1, step=0)  # the old one lives on: it is not newer for that
    assert look(run)["job"] == "9_3"
    event(run, "start", 30, job="11", restart=0, step=0)  # by plain sbatch
    assert look(run)["job"] == "11"


def test_without_slurm_a_run_that_does_not_speak_is_unknown(run: Path) -> None:
    beat(run, ago=720)
    row = look(run, None, answers=False)
    assert (row["state"], row["why"]) == ("unknown", "Slurm cannot be asked; last sign of life 12 min ago")
    beat(run, ago=50)
    assert look(run, None, answers=False)["state"] == "running"


def test_a_run_without_a_job(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text("{}")
    assert (look(run)["state"], look(run)["why"], look(run)["job"]) == ("stopped", "never started", None)
    beat(run, ago=50)
    assert (look(run)["state"], look(run)["nodes"]) == ("running", "n1")
    beat(run, ago=70)
    assert look(run)["state"] == "stopped"
    beat(run, ago=70, host=platform.node(), pid=os.getpid())  # as before a step that takes a minute
    (run / "heartbeat.json").write_text((run / "heartbeat.json").read_text().replace(str(NOW - 70), str(NOW + 70)))
    assert look(run)["state"] == "running"
    beat(run, ago=10, phase="stopped")
    assert (look(run)["state"], look(run)["why"]) == ("stopped", None)


def test_a_process_of_this_host_is_told_from_a_later_one_of_its_number(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        me = {"host": platform.node(), "pid": process.pid}
        beat(tmp_path, **me, time=time.time())
        assert RunFiles.read(tmp_path).is_alive_here()
        beat(tmp_path, **me, time=time.time() - 3600)
        assert not RunFiles.read(tmp_path).is_alive_here()
        process.kill()
        process.wait()
        beat(tmp_path, **me, time=time.time())
        assert not RunFiles.read(tmp_path).is_alive_here()


# ---- the numbers and the log


def test_only_the_end_of_a_big_file_is_read(run: Path) -> None:
    path = run / "metrics.jsonl"
    with path.open("w") as file:
        file.truncate(1 << 34)  # 16 GiB, of which the disk holds nothing
        file.seek(0, os.SEEK_END)
        file.write('\n{"step": 100, "probe/rankme": 12.34, "probe/top1": 0.5}\n')
        file.writelines(f'{{"step": {step}, "loss": 300.0}}\n' for step in range(101, 9000))  # over 64 KiB
        file.write('{"step": 9000, "lo')
    row = look(run)
    assert (row["probe"], row["probe_value"]) == ("rankme", 12.34)
    assert row["step"] == 0  # history's: metrics may be of a start whose checkpoint was lost
    (run / "evaluation.json").write_text(
        json.dumps({"rows": [{"encoder": "x", "metrics": {"linear-cached/top1": {"mean": 46.52}}}]})
    )
    assert (look(run)["probe"], look(run)["probe_value"]) == ("linear", 46.52)


def test_an_embedding_that_is_not_finite_is_no_json_number(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 100, "probe/rankme": NaN}\n')
    assert (look(run)["probe"], look(run)["probe_value"]) == ("rankme", None)
    assert "rankme nan" in table([look(run)], None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"first\nlast\n\n  \n", "last"),
        (b"10%\r20%\r30%\r", "30%"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07é\tx\x00".encode(), "red é x"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        (b"x\n" * 100_000 + b"last", "last"),
    ],
)
def test_the_last_line_of_a_log(tmp_path: Path, text: bytes, shown: str) -> None:
    (tmp_path / "log").write_bytes(text)
    assert last_words(tmp_path / "log") == shown


def test_the_log_is_found_where_it_was_written_or_moved_to(run: Path, tmp_path: Path) -> None:
    assert look(run)["log"] is None
    (run / "slurm" / "7_0_log.err").write_text("of submit\n")
    assert look(run)["stderr"] == "of submit"
    moved = run.rename(tmp_path / "moved")
    assert look(moved)["stderr"] == "of submit"
    event(moved, "submitted", 50, job="9_3", log="/nowhere/9_3_0_log.err")
    assert look(moved)["stderr"] is None
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "9_3_0_log.err").write_text("of a member of a sweep\n")
    assert look(moved)["stderr"] == "of a member of a sweep"
    event(moved, "start", 30, job="11")
    (moved / "slurm" / "11_0_log.err").write_text("of plain sbatch\n")
    assert look(moved)["stderr"] == "of plain sbatch"
