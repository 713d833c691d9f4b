"""slurm.status beside a real Slurm: from the queue until Slurm has forgotten the job."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurm import history
from tests.runs import ROOT
from tests.slurm.cluster import Cluster

# Does what a run does that slurm.status looks at, without torch, until it is told to leave.
TOY = """\
import json, os, sys, time
from pathlib import Path
from slurm import history
from slurm.task import job_id
run = Path(sys.argv[1], os.environ["SLURM_ARRAY_TASK_ID"])
history.append(run, "start", job=job_id(os.environ), restart=0, step=0, nodes=os.environ["SLURM_JOB_NODELIST"])
beat = {"phase": "training", "step": 5, "total_steps": 10, "images_per_second": 100.0, "seconds_left": 60.0}
beat |= {"attempt": 1, "host": os.environ["SLURMD_NODENAME"], "pid": os.getpid()}
print("step 5 of 10", file=sys.stderr, flush=True)
while not (run / "leave").exists():
    (run / "draft").write_text(json.dumps(beat | {"time": time.time()}))
    (run / "draft").rename(run / "heartbeat.json")
    time.sleep(0.1)
sys.exit(int((run / "leave").read_text()))
"""


def test_an_array_from_the_queue_to_oblivion(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(nodes=1, extra=["MinJobAge=5"])
    (tmp_path / "toy.py").write_text(TOY)
    sweep = tmp_path / "sweep"
    for member in "01":
        (sweep / member / "slurm").mkdir(parents=True)
    log = f"{sweep}/%a/slurm/%A_%a_0_log.err"
    options = ["--parsable", "--array=0-1%1", "--hold", "--requeue", "--open-mode=append", "-e", log, "-o", "/dev/null"]
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, str(tmp_path / "toy.py"), str(sweep)]
    array = cluster.command("sbatch", *options, "--wrap", " ".join(words)).strip()
    jobs = [f"{array}_0", f"{array}_1"]
    for member, job in zip("01", jobs, strict=True):
        history.append(sweep / member, "submitted", job=job, log=f"{sweep}/{member}/slurm/{job}_0_log.err")

    def status() -> list[dict[str, Any]]:
        out = cluster.command(sys.executable, "-m", "slurm.status", "--json", sweep, cwd=ROOT)
        return [json.loads(line) for line in out.splitlines()]

    def until(member: int, state: str, attempt: int | None, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while ((row := status()[member])["state"], row["attempt"]) != (state, attempt):
            assert time.monotonic() < end, row
            time.sleep(0.2)
        return row

    rows = status()
    assert [(row["job"], row["state"], row["why"]) for row in rows] == [(job, "pending", "JobHeldUser") for job in jobs]

    cluster.command("scontrol", "release", array)
    row = until(0, "running", 1)
    assert (row["nodes"], row["step"], row["seconds_left"]) == ("127.0.0.11", 5, 60)
    assert row["stderr"] == "step 5 of 10"
    row = status()[1]
    assert (row["state"], row["why"], row["nodes"]) == ("pending", "JobArrayTaskLimit", None)

    cluster.command("scontrol", "requeue", jobs[0])
    assert until(0, "pending", 1)["seconds_left"] is None
    until(1, "running", 1)
    (sweep / "1" / "leave").write_text("3")
    assert until(1, "failed", 1)["why"] == "NonZeroExitCode"
    until(0, "running", 2)
    (sweep / "0" / "leave").write_text("0")
    assert until(0, "completed", 2)["nodes"] == "127.0.0.11"

    cluster.wait(jobs[0], {"GONE"}, 60)
    beat = sweep / "0" / "heartbeat.json"  # Slurm forgets after 300 s, not 5, and the heartbeat is older then
    beat.write_text(json.dumps(json.loads(beat.read_text()) | {"time": time.time() - 300}))
    (sweep / "1" / "done.json").write_text('{"step": 10}')
    rows = status()
    assert [row["state"] for row in rows] == ["stopped", "done"]
    assert rows[0]["why"].startswith("nobody said why; last sign of life ")
