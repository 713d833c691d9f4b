"""slurm.submit on a real Slurm: what it reports, arrays, evaluation afterwards, odd names."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import OVER, events, logs, until

pytestmark = pytest.mark.timeout(600)
TINY = ["--epochs", "1", "--images", "80", "--batch-size", "16", "--device", "cpu", "--workers", "0"]
TINY += ["--log-every", "1", "--heatmap-every", "0", "--no-evaluate", "--cpus-per-gpu", "1", "--mem", "1500M"]


def submit(cluster: Cluster, folder: Path, *flags: str) -> tuple[int, str, str]:
    """Returns (exit code, stdout, stderr)."""
    env = cluster.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    command = [*cluster.inside, sys.executable, "-m", "slurm.submit", "demo", *flags]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_job_that_can_never_start_is_reported_at_once(cluster: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    code, _, told = submit(
        cluster, tmp_path, "--out", "run", "--nodes", "99", *TINY, "--batch-size", "99", "--images", "99"
    )
    assert code == 3, told
    assert "it can never start: PartitionConfig" in told
    job = events(tmp_path / "run", "submitted")[0]
    assert f"scancel {job['job']}" in told
    assert time.time() - job["time"] < 10
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--partition", "gpuu"), "invalid partition"),
        (("--gpus-per-node", "3", "--batch-size", "15"), "not available"),
        (("--batch-size", "15", "--gpus-per-node", "2"), "does not divide over 2 ranks"),
        (("--epochs", "many"), "many"),
        (("--lambda", "1"), "--lambd"),
    ],
)
def test_what_is_refused(cluster: Cluster, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    code, _, told = submit(cluster, tmp_path, "--out", "run", *TINY, *flags)
    assert code == 2
    assert words in told
    assert "Traceback" not in told
    assert cluster.command("squeue", "-h").strip() == ""


def test_a_sweep_from_a_folder_with_spaces_then_its_evaluation(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "my experiments"
    folder.mkdir()
    name = "a name that is far too long for a job " * 5
    flags = (
        "--out",
        "out",
        "--sweep",
        "lambd=0.01,0.02",
        "--then-eval",
        "--eval-flags",
        "--device cpu --workers 0 --seeds 1",
    )
    code, _, told = submit(cluster, folder, *flags, "--job-name", name, *TINY)
    assert code == 0, told
    runs = [folder / "out" / f"lambd={value}" for value in ("0.01", "0.02")]
    jobs = [events(run, "submitted")[0]["job"] for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_0", f"{array}_1"]
    for job, run in zip(jobs, runs):
        until(lambda job=job: cluster.state(job) in OVER, 120, "end", folder / "out")
        assert (run / "done.json").exists(), logs(folder / "out")
        assert json.loads((run / "recipe.json").read_text())["knobs"]["lambd"] == float(run.name.partition("=")[2])
    for run in runs:
        until(lambda run=run: list((run / "eval").glob("*.json")), 120, "evaluation", folder / "out")
    assert len(cluster.job(jobs[0])["JobName"]) <= 100


def test_a_folder_that_cannot_be_written_is_refused_before_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, told = submit(cluster, tmp_path, "--out", "file/run", *TINY)
    assert code == 2
    assert "cannot be written" in told
    assert cluster.command("squeue", "-h").strip() == ""
