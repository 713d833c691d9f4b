"""The test cluster itself, and the facts about Slurm that the launcher rests on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.recorder import Recorder, until


def processes_of(folder: Path) -> list[str]:
    """Returns the command lines of all processes that have to do with a cluster, by environment or open files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            names = (process / "environ").read_bytes()
            names += b"".join(os.fsencode(file.readlink()) for file in (process / "fd").iterdir())
            if str(folder).encode() in names and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_srun_starts_tasks_on_both_nodes_with_their_gpus(cluster: Cluster) -> None:
    words = ("-N2", "--ntasks-per-node=2", "--gpus-per-node=2", "sh", "-c")
    out = cluster.command("srun", *words, "echo $SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    first, second = cluster.node_names()
    rows = [f"0 0 {first} 0,1", f"1 1 {first} 0,1", f"2 0 {second} 0,1", f"3 1 {second} 0,1"]
    assert sorted(out.splitlines()) == rows


def test_a_node_name_resolves_in_a_job(cluster: Cluster) -> None:
    script = "import os, socket; print(socket.gethostbyname(os.environ['SLURM_NODELIST']))"
    assert cluster.command("srun", "-N1", sys.executable, "-c", script).startswith("127.")


def test_more_gpus_than_a_node_has_are_refused(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="Requested node configuration is not available"):
        cluster.command("sbatch", "-N1", "--gpus-per-node=3", "--wrap", "true")


def test_all_daemons_listen_on_loopback_alone(cluster: Cluster) -> None:
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(cluster.folder).encode() in (process / "environ").read_bytes():
                sockets |= {str(file.readlink()) for file in (process / "fd").iterdir()}
        except OSError:
            continue
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path("/proc/net", table).read_text().splitlines()[1:]]
    listen = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    assert listen == ["0100007F"] * 3  # slurmctld and two slurmd at 127.0.0.1; munged has a file


def test_jobs_do_not_inherit_what_the_test_does_with_signals(cluster: Cluster) -> None:
    # Python itself ignores SIGPIPE and SIGXFSZ; of blocked signals Slurm takes care
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    ignored = int(cluster.command("srun", "grep", "SigIgn", "/proc/self/status").split()[1], 16)
    assert ignored & (2**31 - 1) == 0  # signals 1 to 31; those above are the C library's own


def test_requeue_keeps_the_id_and_counts_the_restart(cluster: Cluster, tmp_path: Path) -> None:
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    cluster.command("scontrol", "requeue", job.id)
    job.has_started(2)
    cluster.wait(job.id, {"COMPLETED"}, 30)
    assert job.starts() == ["start 0", "start 0", "start 1", "start 1"]
    assert cluster.job(job.id)["Restarts"] == "1"


def test_a_high_job_preempts_a_low_one_that_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    words = ("--parsable", "-p", "high", "-N2", "--gpus-per-node=2", "--mem=50", "-o", "/dev/null")
    high = cluster.command("sbatch", *words, "--wrap", "true").strip()
    until(lambda: len(job.seen()) > 2, 30)
    record = cluster.job(job.id)  # what tells a preemption from scancel while the grace lasts
    assert (record["JobState"], record["PreemptTime"] != "None") == ("RUNNING", True)
    cluster.wait(high, {"COMPLETED"}, 60)
    job.has_started(2)
    for rank in (0, 1):
        seen = [(when, what) for r, when, what in job.seen() if r == rank]
        assert [what for _, what in seen if what.startswith("start")] == ["start 0", "start 1"]
        signals = [(when, what) for when, what in seen if what.startswith("SIG")]
        notice = [what for when, what in signals if when - signals[0][0] < 5]
        end = [what for when, what in signals if when - signals[0][0] > 8]
        assert len(notice) + len(end) == len(signals)
        # which of the two comes first is chance; at the end the batch step's srun passes the signals on once more
        assert sorted(notice) == ["SIGCONT", "SIGTERM"]
        assert set(end) == {"SIGCONT", "SIGTERM"}


def test_with_preempt_signal_the_notice_is_the_jobs_own_signal(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster(preempt_signal=True)
    job = Recorder(cluster, tmp_path, "--signal=USR2@60", "--time=10")
    job.has_started(1)
    cluster.command("sbatch", "-p", "high", "-N2", "--gpus-per-node=2", "--mem=50", "-o", "/dev/null", "--wrap", "true")
    until(lambda: len(job.seen()) > 2, 30)
    time.sleep(2)
    assert {what for _, _, what in job.seen()} == {"start 0", "SIGCONT", "SIGUSR2"}
    assert cluster.job(job.id)["PreemptTime"] != "None"


def test_power_loss_requeues_the_job(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(node_timeout=5, extra=["MessageTimeout=5"])
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    name = cluster.node_names()[1]
    assert sum(line.startswith(sys.executable) for line in processes_of(cluster.folder)) == 2 + 3  # tasks, machines
    cluster.kill_node(name)
    assert sum(line.startswith(sys.executable) for line in processes_of(cluster.folder)) == 1 + 2
    assert [what for rank, _, what in job.seen() if rank == 1] == ["start 0"]  # no signal announces it
    cluster.wait(job.id, {"PENDING"}, 120)
    assert set(cluster.command("sinfo", "-h", "-n", name, "-p", "low", "-o", "%T").split()) == {"down*"}
    cluster.start_node(name)
    job.has_started(2)
    cluster.wait(job.id, {"COMPLETED"}, 30)


def test_steps_outlive_the_daemon_of_their_node(cluster: Cluster, tmp_path: Path) -> None:
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    name = cluster.node_names()[1]
    cluster.stop_daemon(name)
    cluster.start_node(name)
    cluster.command("scancel", "--signal=USR1", job.id)
    until(lambda: [what for rank, _, what in job.seen() if rank == 1] == ["start 0", "SIGUSR1"], 30)
    assert cluster.state(job.id) == "RUNNING"


def test_a_node_set_down_stays_down_and_its_job_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    name = cluster.node_names()[1]
    cluster.set_node(name, "down")
    try:
        cluster.wait(job.id, {"PENDING"}, 60)
        assert cluster.command("sinfo", "-h", "-n", name, "-p", "low", "-o", "%T").strip().startswith("down")
    finally:
        cluster.set_node(name, "resume")
    job.has_started(2)


def test_scancel_stays_down(cluster: Cluster, tmp_path: Path) -> None:
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    cluster.command("scancel", job.id)
    cluster.wait(job.id, {"CANCELLED"}, 60)
    assert {what for _, _, what in job.seen()} == {"start 0", "SIGCONT", "SIGTERM"}
    assert cluster.job(job.id)["PreemptTime"] == "None"


def test_an_unknown_job_is_gone(cluster: Cluster) -> None:
    assert cluster.state(4_000_000) == "GONE"


def test_a_wait_that_ends_says_how_things_stand(cluster: Cluster) -> None:
    job = cluster.command("sbatch", "--parsable", "-o", "/dev/null", "--hold", "--wrap", "true").strip()
    with pytest.raises(TimeoutError, match=r"is PENDING.*JobHeldUser(?s:.)*slurmctld\.log"):
        cluster.wait(job, {"RUNNING"}, 0.2)


def test_nothing_is_left_after_stop(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster()
    # a child that left its session and its parent behind
    wrap = "srun sh -c '(setsid sleep 1000 &) ; trap \"\" TERM; sleep 1000'"
    job = cluster.command("sbatch", "--parsable", "-N2", "-o", "/dev/null", "--wrap", wrap).strip()
    cluster.wait(job, {"RUNNING"}, 30)
    until(lambda: sum("sleep 1000" in line for line in processes_of(cluster.folder)) >= 4, 30)
    cluster.stop()
    assert processes_of(cluster.folder) == []
    assert [path.name for path in cluster.folder.iterdir() if path.is_dir()] == ["log"]


OWNER = """
import sys, time
from pathlib import Path
from tests.slurm.cluster import Cluster
from tests.slurm.recorder import Recorder, until
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
job = cluster.command("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "srun sleep 1000").strip()
cluster.wait(job, {"RUNNING"}, 30)
print("up", flush=True)
time.sleep(1000)
"""


def test_nothing_is_left_after_a_killed_owner(make_cluster: Callable[..., Cluster]) -> None:
    make_cluster()  # skips where there can be none; and one beside it is no hindrance
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        owner = subprocess.Popen([sys.executable, "-c", OWNER, folder], stdout=subprocess.PIPE, text=True)
        assert owner.stdout.readline() == "up\n"
        assert len(processes_of(Path(folder))) > 6
        owner.kill()
        owner.communicate()
        until(lambda: not processes_of(Path(folder)), 30, lambda: str(processes_of(Path(folder))))


def test_where_slurm_is_missing_tests_skip_but_not_in_ci(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.slurm.cluster.tool", lambda name: "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="slurm-wlm is not installed: apt-get install slurm-wlm munge"):
        make_cluster()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="slurm-wlm is not installed"):
        make_cluster()


def test_an_outer_jobs_variables_do_not_reach_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = ("SLURM_JOB_ID", "SLURMD_NODENAME", "SBATCH_PARTITION", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    for name in (*outer, "FRANKLIN"):
        monkeypatch.setenv(name, "1")
    cluster = Cluster(Path("/tmp/c"))
    assert not set(outer) & set(cluster.env)
    assert cluster.env["FRANKLIN"] == "1"
    assert cluster.env["SLURM_CONF"] == "/tmp/c/slurm.conf"


def test_options_that_slurm_would_not_honour_are_refused() -> None:
    with pytest.raises(ValueError, match="over 60 characters"):
        Cluster(Path("/tmp") / ("x" * 60))
    with pytest.raises(ValueError, match="cred_expire 4"):
        Cluster(Path("/tmp/c"), cred_expire=4)
