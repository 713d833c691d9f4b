"""A job that records what it sees of Slurm: its starts and its signals."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster

# Writes a line at its start and at each signal: the task's rank, seconds since the epoch, what. It heeds no signal.
TASK = """
import os, signal, sys, time
caught = {signal.SIGCONT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, caught)
def note(what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.environ['SLURM_PROCID']} {time.time()} {what}\\n")
note("start " + os.environ.get("SLURM_RESTART_COUNT", "0"))
while "SLURM_RESTART_COUNT" not in os.environ:
    note(signal.Signals(signal.sigwaitinfo(caught).si_signo).name)
"""


class Recorder:
    """Two tasks on two nodes that take all GPUs; after a requeue they end at once."""

    def __init__(self, cluster: Cluster, folder: Path, *options: str) -> None:
        self.cluster, self.log = cluster, folder / "log"
        self.log.touch()
        (folder / "task.py").write_text(TASK)
        wrap = f"exec srun {sys.executable} {folder}/task.py {self.log}"
        words = ("--parsable", "--requeue", "-N2", "--gpus-per-node=2", "--mem=50", *options)
        self.id = cluster.command("sbatch", *words, "-o", folder / "out", "--open-mode=append", "--wrap", wrap).strip()

    def seen(self) -> list[tuple[int, float, str]]:
        """Returns (rank, time, what), in order of time."""
        rows = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        return sorted((int(rank), float(when), what) for rank, when, what in rows)

    def starts(self) -> list[str]:
        return sorted(what for _, _, what in self.seen() if what.startswith("start"))

    def has_started(self, times: int, seconds: float = 60) -> None:
        until(lambda: len(self.starts()) == 2 * times, seconds, lambda: f"{self.seen()} {self.cluster.job(self.id)}")


def until(condition: Callable[[], object], seconds: float, message: Callable[[], str] = str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds} s: {message()}"
        time.sleep(0.05)
