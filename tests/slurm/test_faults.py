"""The real training on a real Slurm: disturbed in every way, its last weights equal an undisturbed run's to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import ROOT, losses, weights
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import OVER, events, logs, note_figures, step, until
from tests.slurm.netns import NetnsCluster

pytestmark = pytest.mark.timeout(600)
STEPS, SAVE_EVERY = 40, 8
KNOBS = ["--epochs", "4", "--images", "320", "--batch-size", "32", "--device", "cpu", "--workers", "1"]
KNOBS += ["--log-every", "1", "--save-every", str(SAVE_EVERY), "--heatmap-every", "0", "--no-evaluate"]
KEY = "planted-0123456789abcdef"


def environment(cluster: Cluster) -> dict[str, str]:
    """Returns the environment of a user, with a secret in it."""
    return cluster.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_API_KEY": KEY, "SSL_SLURM": ""}


def submit(cluster: Cluster, run: Path, *flags: str, nodes: int = 2, ranks: int = 2) -> str:
    """Queues a run by slurm.submit; returns the job's number."""
    words = ["demo", "--out", run, "--nodes", nodes, "--gpus-per-node", ranks // nodes, "--cpus-per-gpu", 1]
    words += ["--partition", "low", "--mem", "1800M", "--time", "30", *KNOBS, *flags]
    run.parent.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-m", "slurm.submit", *map(str, words))
    cluster.command(*command, env=environment(cluster), cwd=run.parent, timeout=120)
    return events(run, "submitted")[-1]["job"]


def sbatch(cluster: Cluster, run: Path, *flags: str, nodes: int = 1, ranks: int = 2) -> str:
    """Queues a run by the plain script; returns the job's number."""
    run.mkdir(parents=True, exist_ok=True)
    words = ["--parsable", "-p", "low", f"--nodes={nodes}", f"--ntasks-per-node={ranks // nodes}", "--mem=1800M"]
    words += [f"--gpus-per-node={ranks // nodes}", "--cpus-per-task=1", "-o", f"{run}.log"]
    command = ["sbatch", *words, str(ROOT / "slurm" / "pretrain.sbatch"), "demo", "--out", str(run), *KNOBS, *flags]
    return cluster.command(*command, env=environment(cluster) | {"PYTHON": sys.executable}, cwd=ROOT).strip()


def reach(run: Path, number: int, seconds: float = 120) -> None:
    until(lambda: step(run) >= number, seconds, f"step {number}", run)


def finish(cluster: Cluster, job: str, run: Path, reference: Path | None, seconds: float = 240) -> None:
    """Waits for the job's end and holds what it leaves to the undisturbed run."""
    state = until(lambda: cluster.state(job) in OVER and cluster.state(job), seconds, f"end of job {job}", run)
    assert state == "COMPLETED", logs(run)
    assert sorted(losses(run)) == list(range(1, STEPS + 1))  # a repeated step gave the same loss to the bit
    if reference:
        assert losses(run) == losses(reference)
        assert weights(run) == weights(reference)


def repeated(run: Path) -> int:
    """Returns how many steps were made more than once."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sum("loss" in line for line in lines) - STEPS


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that nothing happened to."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    job = submit(cluster, run)
    finish(cluster, job, run, None)
    assert len(events(run, "start")) == 1
    return run


def test_what_a_run_on_two_nodes_records(cluster: Cluster, undisturbed: Path) -> None:
    (attempt,) = json.loads((undisturbed / "environment.json").read_text())["attempts"]
    assert attempt["nodes"] == cluster.node_names()
    assert attempt["world_size"] == 2
    assert attempt["git"]["digest"].startswith(events(undisturbed, "submitted")[0]["code"].removeprefix("code-"))
    assert not list(undisturbed.glob(".rendezvous*"))


@pytest.mark.parametrize("launcher", ["submitit, two nodes", "sbatch, one node"])
def test_the_notice_of_a_time_limit(cluster: Cluster, tmp_path: Path, undisturbed: Path, launcher: str) -> None:
    run = tmp_path / "a path with spaces" / "run"
    start = submit if "submitit" in launcher else sbatch
    job = start(cluster, run, "--wandb", "offline")
    reach(run, 11)
    asked = time.time()
    cluster.command("scancel", "--signal=USR2", job)
    finish(cluster, job, run, undisturbed)
    assert cluster.job(job)["Restarts"] == "1"  # the same job number
    (stop,), (_, again) = events(run, "stop"), events(run, "start")
    assert stop["verdict"] == "requeued"
    assert repeated(run) == 0
    assert again["step"] == stop["step"]
    assert "Traceback" not in logs(run)  # of ranks or data workers
    said = (run / "slurm" / f"{job}_0_log.out").read_text()  # of both starts: nothing is overwritten
    assert said.count("run folder") == 2
    assert f"resumed at step {stop['step']}" in said
    resumed = next(line for line in events_of_training(run, "start") if line["attempt"] == 2)
    note_figures(
        f"notice, {launcher}", save=stop["time"] - asked, resume=resumed["time"] - stop["time"], repeated=repeated(run)
    )
    # One wandb run over both starts, which go on in one another's steps.
    offline = sorted((run / "wandb").glob("offline-run-*"))
    assert len(offline) == 2
    assert {folder.name.rpartition("-")[2] for folder in offline} == {(run / "wandb_id").read_text().strip()}
    # No secret in any log, config, pickle or wandb file.
    for path in [*run.rglob("*"), run.with_suffix(".log")]:
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def events_of_training(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_the_evaluation_by_the_plain_script(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    """From another folder than the repository, on two ranks; told of a time limit it comes back and goes on."""
    out, log = tmp_path / "result.json", tmp_path / "log"
    words = [
        "-p",
        "low",
        "--gpus-per-node=2",
        "--ntasks-per-node=2",
        "--cpus-per-task=1",
        "--mem=1800M",
        "-o",
        str(log),
    ]
    flags = ["--run", str(undisturbed), "--out", str(out), "--device", "cpu", "--workers", "0", "--seeds", "1"]
    flags += ["--protocol", "bt-100ep", "--epochs", "10"]
    env = environment(cluster) | {"REPO": str(ROOT), "PYTHON": sys.executable}
    command = ("sbatch", "--parsable", *words, str(ROOT / "slurm" / "eval_linear.sbatch"), *flags)
    job = cluster.command(*command, env=env, cwd=tmp_path).strip()
    until(lambda: log.exists() and "protocol bt-10ep" in log.read_text(), 120, "the evaluation's start")
    cluster.command("scancel", "--signal=USR2", job)
    state = until(lambda: cluster.state(job) in OVER and cluster.state(job), 240, "the evaluation")
    assert state == "COMPLETED", log.read_text()
    assert cluster.job(job)["Restarts"] == "1"
    assert "stopped by SIGUSR2" in log.read_text()
    assert json.loads(out.read_text())["rows"][0]["encoder"] == "pretrained"
    assert not list(tmp_path.glob("*.unfinished"))


def test_preemption(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    job = sbatch(cluster, run, nodes=2)
    reach(run, 11)
    asked = time.time()
    wanted = ("-p", "high", "--nodes=2", "--exclusive", "--mem=100", "-o", "/dev/null", "--wrap", "srun sleep 1")
    cluster.command("sbatch", *wanted)
    finish(cluster, job, run, undisturbed)
    (stop,) = events(run, "stop")
    assert stop["signal"] == "SIGTERM"
    assert repeated(run) == 0
    resumed = events_of_training(run, "start")[1]["time"]
    note_figures("preemption, training", save=stop["time"] - asked, resume=resumed - stop["time"], repeated=0)


def training_of(run: Path, rank: int) -> int:
    """Returns the process of a rank's training on this machine."""
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes().split(b"\0") if place.name.isdigit() else []
            env = (place / "environ").read_bytes().split(b"\0") if str(run).encode() in words else []
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1]) if env else 0
            ours = f"SLURM_PROCID={rank}".encode() in env and any(b"pretrain.py" in word for word in words)
            if ours and b"task.py" in (Path("/proc") / str(parent) / "cmdline").read_bytes():
                return int(place.name)
        except OSError:
            continue
    raise AssertionError(f"no training of {run}, rank {rank}")


def test_a_rank_is_killed(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    job = sbatch(cluster, run, nodes=2)
    reach(run, 11)
    asked = time.time()
    os.kill(training_of(run, 1), signal.SIGKILL)
    until(lambda: cluster.state(job) != "RUNNING", 15, "the end of all ranks", run)
    ended = time.time() - asked
    finish(cluster, job, run, undisturbed)
    (failed,) = events(run, "failed")
    assert failed["rank"] == 1
    assert failed["verdict"] == "requeued"
    assert repeated(run) <= SAVE_EVERY
    log = (run / "slurm" / f"{job}_0_log.err").read_text()
    assert 0 < log.index("slurm: rank 1 on") < log.index("Traceback")  # the cause, then what it led to
    resumed = events_of_training(run, "start")[1]["time"]
    note_figures("rank killed", save=ended, resume=resumed - asked, repeated=repeated(run))


def test_a_node_loses_power(make_cluster: Callable[..., Cluster], tmp_path: Path, undisturbed: Path) -> None:
    cluster = make_cluster()
    run = tmp_path / "run"
    job = sbatch(cluster, run, nodes=2)
    reach(run, 11)
    asked = time.time()
    cluster.kill_node(cluster.node_names()[1])
    until(lambda: cluster.state(job) != "RUNNING", 90, "noticed", run)
    cluster.start_node(cluster.node_names()[1])
    finish(cluster, job, run, undisturbed)
    assert repeated(run) <= SAVE_EVERY
    resumed = events_of_training(run, "start")[1]["time"]
    note_figures("node loses power, training", resume=resumed - asked, repeated=repeated(run))


def test_a_cable_is_cut(make_cluster: Callable[..., Cluster], tmp_path: Path, undisturbed: Path) -> None:
    """The nodes are hosts of their own here; nobody is told of the cut, so the ranks wait for each other in vain."""
    cluster = make_cluster(net="netns")
    assert isinstance(cluster, NetnsCluster)
    run, timeout = tmp_path / "run", 12
    job = sbatch(cluster, run, "--timeout-min", str(timeout / 60), nodes=2)
    reach(run, 11)
    asked = time.time()
    cluster.cut_node("n2")
    ended = until(lambda: events_of_training(run, "end"), timeout + 60, "the end of rank 0", run)[0]["time"] - asked
    assert ended < timeout + 10
    note = until(lambda: list((run / "slurm").glob("failure-*.json")), 10, "a note of the failure", run)
    assert note[0].stat().st_mtime - asked < timeout + 10  # of the rank that gave up first, the cut one or the other
    until(lambda: cluster.state(job) != "RUNNING", 90, "the requeue", run)
    cluster.join_node("n2")
    finish(cluster, job, run, undisturbed)
    assert repeated(run) <= SAVE_EVERY
    resumed = events_of_training(run, "start")[1]["time"]
    note_figures("cable cut", save=ended, resume=resumed - asked, repeated=repeated(run))


def test_another_number_of_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """The same samples at the same steps; losses within rounding, which float64 makes small enough to see through."""
    flags = ("--precision", "fp64")
    alone, run = tmp_path / "alone", tmp_path / "run"
    first = submit(cluster, alone, *flags, nodes=1, ranks=1)
    job = submit(cluster, run, *flags)
    reach(run, 11)
    cluster.command("scancel", job)
    cluster.wait(job, OVER, 60)
    assert 11 <= step(run) < STEPS
    job = sbatch(cluster, run, *flags, nodes=1, ranks=1)
    finish(cluster, job, run, None)
    finish(cluster, first, alone, None)
    assert losses(run) == pytest.approx(losses(alone), rel=1e-9)


def test_two_jobs_on_the_same_nodes_at_once(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    runs = [tmp_path / name for name in ("one", "two")]
    jobs = [sbatch(cluster, run, nodes=2) for run in runs]
    for job, run in zip(jobs, runs):
        finish(cluster, job, run, undisturbed)
    times = [events(run, "start")[0]["time"] for run in runs]
    ends = [(run / "done.json").stat().st_mtime for run in runs]
    assert max(times) < min(ends)  # they did run side by side


def test_the_code_of_the_submission_is_what_runs(cluster: Cluster, tmp_path: Path, undisturbed: Path) -> None:
    """The repository is broken while the job waits: it runs what was submitted, and again after a requeue."""
    repository = tmp_path / "repository"
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py", "*.sbatch"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            (repository / name).write_bytes((ROOT / name).read_bytes())
    wanted = ("-p", "high", "--nodes=2", "--exclusive", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 1000")
    blocker = cluster.command("sbatch", "--parsable", *wanted).strip()
    run = tmp_path / "run"
    words = ["demo", "--out", run, "--nodes", 2, "--gpus-per-node", 1, "--cpus-per-gpu", 1, "--mem", "1800M", *KNOBS]
    command = (sys.executable, "-m", "slurm.submit", *map(str, words))
    env = environment(cluster) | {"PYTHONPATH": str(repository)}
    cluster.command(*command, env=env, cwd=tmp_path, timeout=120)
    job = events(run, "submitted")[0]["job"]
    for name in ("pretrain.py", "recipes/demo.py", "slurm/task.py"):
        (repository / name).write_text("raise SystemExit('edited after submission')\n")
    cluster.command("scancel", blocker)
    reach(run, 5)
    cluster.command("scancel", "--signal=USR2", job)
    finish(cluster, job, run, undisturbed)
    assert len(events(run, "start")) == 2
