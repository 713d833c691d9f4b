"""The test cluster of separate hosts, and what Slurm makes of a cable that is cut."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.netns import NetnsCluster
from tests.slurm.recorder import Recorder, until

FAST = {"net": "netns", "node_timeout": 5, "extra": ["MessageTimeout=5"]}
LISTEN = """
import os, socket
first, rank = "n1", int(os.environ["SLURM_PROCID"])
if rank == 0:
    with socket.create_server((first, 29500)) as server:
        peer, _ = server.accept()
        print(rank, socket.gethostname(), peer.recv(99).decode())
else:
    while True:
        try:
            with socket.create_connection((first, 29500)) as peer:
                peer.sendall(f"{rank} {socket.gethostname()} {peer.getsockname()[0]}".encode())
            break
        except ConnectionRefusedError:
            pass
"""


def test_each_node_is_a_host_that_others_reach_by_name(make_cluster: Callable[..., NetnsCluster]) -> None:
    cluster = make_cluster(net="netns")
    assert cluster.node_names() == ["n1", "n2"]
    assert cluster.command("srun", "-N2", sys.executable, "-c", LISTEN).strip() == "0 n1 1 n2 10.77.0.12"


def test_a_cut_cable_requeues_the_job_and_a_mended_one_brings_the_node_back(
    make_cluster: Callable[..., NetnsCluster], tmp_path: Path
) -> None:
    cluster = make_cluster(**FAST)
    job = Recorder(cluster, tmp_path)
    job.has_started(1)
    cluster.cut_node("n2")
    cluster.wait(job.id, {"PENDING"}, 120)
    assert [what for rank, _, what in job.seen() if rank == 1] == ["start 0"]  # nothing reaches it
    assert {what for rank, _, what in job.seen() if rank == 0} == {"start 0", "SIGCONT", "SIGTERM"}
    cluster.command("scontrol", "hold", job.id)  # see join_node
    cluster.join_node("n2")
    until(lambda: cluster.command("sinfo", "-h", "-n", "n2", "-p", "low", "-o", "%T").strip() == "idle", 120)
    time.sleep(2)
    cluster.command("scontrol", "release", job.id)
    job.has_started(2)
    cluster.wait(job.id, {"COMPLETED"}, 30)


# Rank 0 says when its connection with rank 1 is there, and when it ends.
CONNECTED = """
import os, socket, sys, time
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(what + "\\n")
if "SLURM_RESTART_COUNT" in os.environ:
    sys.exit()
if os.environ["SLURM_PROCID"] == "0":
    with socket.create_server(("n1", 29500)) as server:
        peer, _ = server.accept()
        note("connected")
        peer.recv(1)
        note("closed")
else:
    time.sleep(1)
    peer = socket.create_connection(("n1", 29500))
time.sleep(1000)
"""


def test_power_loss_is_silent_and_the_node_can_be_started_again(
    make_cluster: Callable[..., NetnsCluster], tmp_path: Path
) -> None:
    cluster = make_cluster(**FAST)
    (tmp_path / "task.py").write_text(CONNECTED)
    log = tmp_path / "log"
    log.touch()
    wrap = f"exec srun {sys.executable} {tmp_path}/task.py {log}"
    job = cluster.command("sbatch", "--parsable", "--requeue", "-N2", "-o", tmp_path / "out", "--wrap", wrap).strip()
    until(lambda: log.read_text() == "connected\n", 30)
    cluster.kill_node("n2")
    time.sleep(2)
    assert log.read_text() == "connected\n"  # a peer that is killed on a machine that lives on would say goodbye
    cluster.wait(job, {"PENDING"}, 120)
    cluster.start_node("n2")
    cluster.wait(job, {"COMPLETED"}, 60)
