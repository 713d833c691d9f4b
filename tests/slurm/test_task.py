"""What becomes of a job, on a real Slurm: a stand-in training (toy.py) that starts at once, disturbed in every way."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import history
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import OVER, events, logs, note_figures, toy, toy_result, toy_step, until

ONE_NODE = ("--nodes=1", "--ntasks=1")


def finish(cluster: Cluster, job: str, run: Path, seconds: float = 90) -> None:
    """Waits for the job's end, and holds the run to the result of an undisturbed one."""
    state = until(lambda: cluster.state(job) in OVER and cluster.state(job), seconds, f"end of job {job}", run)
    assert state == "COMPLETED", logs(run)
    assert (run / "result").read_text() == toy_result(40), logs(run)


def starts(run: Path) -> list[int]:
    return [line["step"] for line in events(run, "start")]


def test_the_notice_of_a_time_limit_saves_and_requeues(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run)
    until(lambda: toy_step(run) >= 15, 30, "step 15", run)
    asked = time.time()
    cluster.command("scancel", "--signal=USR2", job)
    finish(cluster, job, run)
    assert cluster.job(job)["Restarts"] == "1"
    (stop,) = events(run, "stop")
    assert (stop["signal"], stop["verdict"]) == ("SIGUSR2", "requeued")
    assert starts(run)[1] == stop["step"] >= 15  # not a step is repeated
    again = events(run, "start")[1]["time"]
    note_figures(
        "notice (stand-in)",
        save=stop["time"] - asked,
        resume=again - stop["time"],
        repeated=stop["step"] - starts(run)[1],
    )


def test_a_real_time_limit_is_outlived(cluster: Cluster, tmp_path: Path) -> None:
    """One minute: Slurm sends the notice, early and by its own clock."""
    run = tmp_path / "run"
    job = toy(cluster, run, "--pause", "1", options=(*ONE_NODE, "--time=1"))
    finish(cluster, job, run, 200)
    assert int(cluster.job(job)["Restarts"]) >= 1
    assert all(line["signal"] == "SIGUSR2" for line in events(run, "stop"))
    assert starts(run)[1:] == [line["step"] for line in events(run, "stop")]


@pytest.mark.parametrize("kind", ["grace", "no grace", "user signal"])
def test_a_preempted_job_comes_back(make_cluster: Callable[..., Cluster], tmp_path: Path, kind: str) -> None:
    cluster = make_cluster(grace=0 if kind == "no grace" else 20, preempt_signal=kind == "user signal")
    run = tmp_path / "run"
    job = toy(cluster, run)
    until(lambda: toy_step(run) >= 15, 30, "step 15", run)
    asked = time.time()
    script = ("-p", "high", "--nodes=2", "--exclusive", "--mem=100", "-o", "/dev/null", "--wrap", "srun sleep 3")
    cluster.command("sbatch", *script)
    finish(cluster, job, run)
    assert cluster.job(job)["Restarts"] == "1"  # never COMPLETED early
    (stop,) = events(run, "stop")
    assert stop["signal"] == ("SIGUSR2" if kind == "user signal" else "SIGTERM")
    assert starts(run)[1] == stop["step"] >= 15
    again = events(run, "start")[1]["time"]
    note_figures(
        f"preemption, {kind}",
        save=stop["time"] - asked,
        resume=again - stop["time"],
        repeated=stop["step"] - starts(run)[1],
    )


def test_twenty_cancelled_jobs_stay_cancelled(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(cpus=24)
    runs = [tmp_path / f"run{number}" for number in range(20)]
    jobs = [toy(cluster, run, "--pause", "0.5", options=ONE_NODE) for run in runs]
    for run in runs:
        until(lambda run=run: toy_step(run) >= 1, 90, "a step", run)
    asked = time.time()
    cluster.command("scancel", *jobs)
    for job, run in zip(jobs, runs):
        until(lambda job=job: cluster.state(job) in OVER, 60, f"end of {job}", run)
    time.sleep(7)  # longer than a requeued job waits here
    states = {cluster.state(job) for job in jobs}
    assert states == {"CANCELLED"}
    assert all(cluster.job(job)["Restarts"] == "0" for job in jobs)
    for run in runs:
        (stop,) = events(run, "stop")
        assert "not requeued" in stop["verdict"]
        assert history.saved_step(run) == stop["step"] >= 1  # usable
        note_figures("scancel", save=stop["time"] - asked)
    job = toy(cluster, runs[0], options=ONE_NODE)  # the same command again
    finish(cluster, job, runs[0])
    assert starts(runs[0])[1] >= 1


def test_a_signal_from_a_person_stops_for_good(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, options=ONE_NODE)
    until(lambda: toy_step(run) >= 3, 30, "a step", run)
    cluster.command("scancel", "--signal=TERM", job)
    cluster.wait(job, OVER, 30)
    assert "signal from a person" in events(run, "stop")[0]["verdict"]
    assert cluster.job(job)["Restarts"] == "0"


def test_of_an_array_only_the_disturbed_member_restarts(cluster: Cluster, tmp_path: Path) -> None:
    """The last member's SLURM_JOB_ID is the array's own: requeueing that number would restart all three."""
    runs = [tmp_path / f"run{number}" for number in range(3)]
    array = toy(cluster, tmp_path / "run$SLURM_ARRAY_TASK_ID", options=(*ONE_NODE, "--array=0-2"))
    script = tmp_path / "run$SLURM_ARRAY_TASK_ID.sbatch"
    text = script.read_text().replace("'", "")  # so that the shell fills in the member
    script.write_text(text)
    cluster.command("scancel", array)
    cluster.wait(array, OVER, 30)
    for run in runs:
        (run / "slurm").mkdir(parents=True, exist_ok=True)
    options = ("-p", "low", "--requeue", "--mem=100", *ONE_NODE, "--array=0-2", "-o", "/dev/null")
    array = cluster.command("sbatch", "--parsable", *options, str(script)).strip()
    for run in runs:
        until(lambda run=run: toy_step(run) >= 5, 60, "step 5", run)
    cluster.command("scancel", "--signal=USR2", f"{array}_2")
    for number, run in enumerate(runs):
        finish(cluster, f"{array}_{number}", run)
    assert [len(starts(run)) for run in runs] == [1, 1, 2]
    assert events(runs[2], "stop")[0]["job"] == f"{array}_2"


@pytest.mark.parametrize("late", [False, True], ids=["hangs", "signalled late"])
def test_a_finished_run_that_does_not_leave_is_not_requeued(cluster: Cluster, tmp_path: Path, late: bool) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, "--hang", "--worker", "--pause", "0.02", options=ONE_NODE, task=("--exit-limit", "4"))
    until((run / "done.json").exists, 30, "done", run)
    began = time.monotonic()
    if late:
        cluster.command("scancel", "--signal=USR2", job)
    finish(cluster, job, run)
    assert time.monotonic() - began < 10
    assert cluster.job(job)["Restarts"] == "0"


def test_a_rank_that_dies_ends_all_and_is_named_first(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--die-at", "5", "--die-rank", "1", "--die-code", str(-signal.SIGKILL), "--pause", "0.2")
    job = toy(cluster, run, *flags)
    until((run / "step").exists, 30, "start", run)
    began = time.monotonic()
    assert cluster.wait(job, OVER, 30) == "FAILED"
    assert time.monotonic() - began < 10 + 5 * 0.2
    assert cluster.job(job)["Restarts"] == "0"  # nothing was saved: no progress
    (failed,) = events(run, "failed")
    assert (failed["rank"], failed["step"], failed["progress"]) == (1, 0, False)
    assert "SIGKILL" in failed["reason"]
    first_log = (run / "slurm" / f"{job}_0.err").read_text()
    assert f"rank 1 on {failed['host']} failed first: killed by SIGKILL" in first_log
    assert "rank 1 dies of a test" in first_log  # its last words, in the log one reads


def test_a_rank_that_dies_after_progress_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, "--die-at", "25", "--die-rank", "1", "--die-once")
    finish(cluster, job, run)
    (failed,) = events(run, "failed")
    assert (failed["step"], failed["progress"], failed["verdict"]) == (20, True, "requeued")
    assert starts(run)[0] == 0
    assert 20 <= starts(run)[1] < 40  # rank 0, which waits for nobody here, may save once more when it is ended
    again = events(run, "start")[1]["time"]
    note_figures("rank dies (stand-in)", resume=again - failed["time"])


def test_a_run_that_dies_at_the_same_step_again_and_again_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, "--die-at", "15", "--pause", "0.05", options=ONE_NODE)
    until(lambda: cluster.state(job) == "FAILED", 120, "end", run)
    assert starts(run) == [0, 10, 10]  # progress, then two starts without
    assert "2 starts failed at step 10 without a new checkpoint" in events(run, "failed")[-1]["verdict"]
    assert "2 starts failed at step 10" in (run / "slurm" / f"{job}_0.err").read_text()


def test_a_task_that_is_killed_itself_does_not_look_like_a_person(cluster: Cluster, tmp_path: Path) -> None:
    """srun then ends the other by SIGTERM; the batch script sees that this was no wish to stop."""
    run = tmp_path / "run"
    job = toy(cluster, run)
    until(lambda: toy_step(run) >= 12, 30, "step 12", run)
    os.kill(task_of(run, 1), signal.SIGKILL)
    finish(cluster, job, run)
    assert cluster.job(job)["Restarts"] == "1"
    (failed,) = events(run, "failed")
    assert failed["verdict"] == "requeued"
    assert "tasks were killed" in failed["reason"]


def task_of(run: Path, rank: int) -> int:
    """Returns the process of a rank's task on this machine."""
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0") if place.name.isdigit() else []
            ours = any(word.endswith(b"task.py") for word in words) and str(run).encode() in words
            if ours and f"SLURM_PROCID={rank}".encode() in (place / "environ").read_bytes().split(b"\0"):
                return int(place.name)
    raise AssertionError(f"no task of {run}, rank {rank}")


@pytest.mark.parametrize("saved", [True, False])
def test_a_job_that_slurm_kills_for_its_memory(
    make_cluster: Callable[..., Cluster], tmp_path: Path, saved: bool
) -> None:
    """All tasks get SIGKILL at once, so none is left to decide: the batch script does, by the same rule."""
    cluster = make_cluster(extra=["JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"])
    run = tmp_path / "run"
    job = toy(cluster, run, "--eat-at", "12", "--save-every", "10" if saved else "100", "--pause", "0.05")
    if saved:
        finish(cluster, job, run)
        assert starts(run) == [0, 10]
    else:
        until(lambda: cluster.state(job) in OVER, 60, "end", run)
        assert cluster.state(job) == "FAILED"
        assert starts(run) == [0]
    (failed,) = events(run, "failed")
    assert failed["progress"] == saved
    assert "tasks were killed" in failed["reason"]
    assert "exceeded memory limit" in logs(run)


@pytest.mark.parametrize("code", [2, 70, 74])
def test_what_would_fail_again_is_not_requeued(cluster: Cluster, tmp_path: Path, code: int) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, "--die-at", "15", "--die-code", str(code), "--pause", "0.05", options=ONE_NODE)
    assert cluster.wait(job, OVER, 30) == "FAILED"
    assert cluster.job(job)["ExitCode"] == f"{code}:0"
    assert cluster.job(job)["Restarts"] == "0"


def test_restarts_have_a_cap(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, options=ONE_NODE, task=("--max-restarts", "0"))
    until(lambda: toy_step(run) >= 3, 30, "a step", run)
    cluster.command("scancel", "--signal=USR2", job)
    assert cluster.wait(job, OVER, 30) == "FAILED"
    assert "restarted 0 times" in events(run, "stop")[0]["verdict"]


def test_a_job_that_may_not_be_requeued_says_so(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = toy(cluster, run, options=(*ONE_NODE, "--no-requeue"))
    until(lambda: toy_step(run) >= 3, 30, "a step", run)
    cluster.command("scancel", "--signal=USR2", job)
    assert cluster.wait(job, OVER, 30) == "FAILED"
    (stop,) = events(run, "stop")
    assert "could not be requeued" in stop["verdict"]
    assert "the same command resumes it" in (run / "slurm" / f"{job}_0.err").read_text()


def test_a_training_that_hears_nothing_is_ended_before_the_limit(cluster: Cluster, tmp_path: Path) -> None:
    """No step ends: the task ends it unsaved and requeues, and the last checkpoint is what is left."""
    run = tmp_path / "run"
    job = toy(cluster, run, "--deaf", "--pause", "0.3", options=ONE_NODE, task=("--lead", "4"))
    until(lambda: toy_step(run) >= 12, 30, "step 12", run)
    cluster.command("scancel", "--signal=USR2", job)
    finish(cluster, job, run)
    assert starts(run)[1] in (10, 20)
    assert "ended unsaved" in (run / "slurm" / f"{job}_0.err").read_text()


@pytest.mark.parametrize("fault", ["set down", "daemon killed"])
def test_a_lost_node_requeues_the_job(make_cluster: Callable[..., Cluster], tmp_path: Path, fault: str) -> None:
    """(test_faults.py has the loss of power, with the real training.)"""
    cluster = make_cluster()
    run = tmp_path / "run"
    job = toy(cluster, run, "--pause", "1" if fault == "daemon killed" else "0.5", "--save-every", "3")
    until(lambda: toy_step(run) >= 4, 30, "step 4", run)
    node, asked = cluster.node_names()[1], time.time()
    if fault == "set down":
        cluster.set_node(node, "down")
    else:
        cluster.stop_daemon(node)  # Slurm notices after three missed answers
    until(lambda: cluster.state(job) != "RUNNING", 90, "noticed", run)
    if fault == "set down":
        cluster.set_node(node, "resume")
    else:
        cluster.start_node(node)
    finish(cluster, job, run, 120)
    assert int(cluster.job(job)["Restarts"]) >= 1  # a slurmd that comes back may end the new step with the old one
    first, *others = starts(run)
    assert first == 0
    assert min(others) >= 3
    note_figures(f"node, {fault} (stand-in)", resume=events(run, "start")[1]["time"] - asked)
