"""A run on this machine, treated as Slurm treats one on a cluster. Linux only.

    with Job(run, program, ("demo", "--out", str(run)), ranks=2) as job:  # no process outlives the block
        job.start()
        job.wait(600, lambda: job.step() >= 7)      # True: step 7 is on record; False: all ranks have ended
        job.deliver(signal.SIGUSR2)
        job.wait(120, renewed=False)
        job.start()                                 # as a requeued job: the same command again

Each rank is `slurm/task.py` with the training as its child, as in a job. Processes are told by a mark in their
environment, which children inherit: also those whose parent is dead, or that made a session of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import history
from .task import STOPPED

TASK = Path(__file__).with_name("task.py")
KILL_WAIT_S = 30.0  # from SIGTERM to SIGKILL; Slurm's own default of KillWait
GONE_WAIT_S = 30.0  # for processes to be gone after SIGKILL
LOOK_S = 0.02
TAIL = 65536  # bytes at the end of metrics.jsonl in which its last line is looked for
# What a launcher around us set would have the ranks believe that they are its own.
FOREIGN = re.compile(
    r"(SLURMD?|SBATCH|SRUN|TORCHELASTIC|MASTER|PMI|PMIX|OMPI)_|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)$"
)


class Hung(Exception):  # noqa: N818  (names what happened)
    """A wait has come to its bound."""


class Process(NamedTuple):
    """One of a job's processes."""

    pid: int
    parent: int
    command: bytes


class Job:
    """One run, whose ranks are started, signalled, ended and started again.

    Args:
        run: the run folder; logs are RUN/slurm/start1_rank0.log and so on.
        program: the training: pretrain.py, or what stands in for it.
        arguments: of the program, on every rank.
        lead: seconds from the notice of a time limit to the limit, as each task is told.
        kill_wait: seconds from SIGTERM to SIGKILL for the ranks that live on when one has died.
    """

    def __init__(
        self,
        run: Path,
        program: Path,
        arguments: Sequence[str],
        ranks: int,
        lead: float = 120.0,
        kill_wait: float = KILL_WAIT_S,
    ) -> None:
        self.run, self.ranks, self.starts = run, ranks, 0
        python = [sys.executable, "-u"]
        self.command = [*python, str(TASK), "--run", str(run), "--lead", str(lead), "--", *python, str(program)]
        self.command += arguments
        self._kill_wait, self._kill_at = kill_wait, 0.0
        self.culprit: int | None = None  # of the newest start: the rank that died first
        self._tasks: list[subprocess.Popen[bytes]] = []
        self._mark = ("SSL_DRILL", secrets.token_hex(16))

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self) -> None:
        """Starts the command on every rank, once more.

        Raises:
            OSError: the run folder cannot be written.
        """
        self.end()
        self._tasks.clear()
        self._kill_at, self.culprit = 0.0, None
        self.starts += 1
        (self.run / history.FOLDER).mkdir(parents=True, exist_ok=True)
        common = {key: value for key, value in os.environ.items() if not FOREIGN.match(key)}
        common.setdefault("OMP_NUM_THREADS", "1")  # sums in one order
        common |= dict([self._mark]) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        common["SLURM_RESTART_COUNT"] = str(
            self.starts - 1
        )  # names the task's notes; without a job id it asks no Slurm
        for rank in range(self.ranks):
            seat = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.ranks, "LOCAL_WORLD_SIZE": self.ranks}
            with self.log(rank).open("wb") as log:
                task = subprocess.Popen(
                    self.command,
                    env=common | {key: str(value) for key, value in seat.items()},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C in the terminal is ours alone
                    preexec_fn=_as_task,
                )
            self._tasks.append(task)

    def log(self, rank: int) -> Path:
        """Returns the file with both outputs of a rank in the newest start."""
        return self.run / history.FOLDER / f"start{self.starts}_rank{rank}.log"

    def codes(self) -> list[int | None]:
        """Returns the exit code of each rank's task, None while it runs. Does meanwhile what srun and Slurm do.

        When a rank has died the others get SIGTERM, then SIGKILL (`--kill-on-bad-exit=1`); what is left of a step whose
        tasks have all ended gets SIGKILL. Leaving with 75 is no death: in a job the task then waits for Slurm.
        """
        codes = [task.poll() for task in self._tasks]
        dead = [rank for rank, code in enumerate(codes) if code not in (None, 0, STOPPED)]
        if dead and self.culprit is None:
            self.culprit = dead[0]
        if None not in codes:
            self.end()
        elif dead:
            if not self._kill_at:
                self._kill_at = time.monotonic() + self._kill_wait
                self.deliver(signal.SIGTERM)
            elif time.monotonic() > self._kill_at:
                self.deliver(signal.SIGKILL)
        return codes

    def step(self) -> int:
        """Returns the newest step that is on record, 0 before the first."""
        with contextlib.suppress(OSError), (self.run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            for text in reversed(file.read().splitlines()):
                with contextlib.suppress(ValueError):  # a torn line
                    line = json.loads(text)
                    if isinstance(line, dict) and "loss" in line:
                        return int(line["step"])
        return 0

    def recorded(self) -> int:
        """Returns the bytes on record: more of them are a sign of life."""
        try:
            return (self.run / "metrics.jsonl").stat().st_size
        except OSError:
            return 0

    def wait(self, seconds: float, until: Callable[[], bool] | None = None, renewed: bool = True) -> bool:
        """Returns True once `until` holds, False when all ranks have ended before.

        Args:
            seconds: the bound of the wait.
            renewed: it starts anew with each line on record.

        Raises:
            Hung: neither came within the bound.
        """
        size, end = self.recorded(), time.monotonic() + seconds
        while True:
            if until is not None and until():
                return True
            if None not in self.codes():
                return False
            if renewed and self.recorded() != size:
                size, end = self.recorded(), time.monotonic() + seconds
            if time.monotonic() > end:
                raise Hung
            time.sleep(LOOK_S)

    # --- processes

    def processes(self) -> list[Process]:
        """Returns all that runs of this job: tasks, trainings, data workers and what else they started."""
        return list(_marked(self._mark))

    def trainings(self, rank: int) -> list[Process]:
        """Returns a rank's training, [] if it has ended."""
        return [found for found in self.processes() if found.parent == self._tasks[rank].pid]

    def workers(self, rank: int) -> list[Process]:
        """Returns a rank's data workers: forks of the training, so their command line is the same."""
        same = {(training.pid, training.command) for training in self.trainings(rank)}
        return sorted(found for found in self.processes() if (found.parent, found.command) in same)

    def deliver(self, number: signal.Signals) -> None:
        """Signals every process of every rank, as Slurm does at a time limit or a preemption."""
        for process in self.processes():
            send(process, number)

    def end(self) -> None:
        """Ends every process of the job by SIGKILL and waits until it is gone, 30 s at most (a disk may hold one)."""
        end = time.monotonic() + GONE_WAIT_S
        while self.processes() and time.monotonic() < end:
            self.deliver(signal.SIGKILL)
            time.sleep(0.01)
        for task in self._tasks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                task.wait(max(0.1, end - time.monotonic()))


def send(process: Process, number: signal.Signals) -> None:
    """Signals one process that was found a moment ago, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _marked(mark: tuple[str, str]) -> Iterator[Process]:
    wanted = "=".join(mark).encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or it is somebody else's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):  # a zombie has none any more
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                yield Process(int(folder.name), int(parent), (folder / "cmdline").read_bytes())


def _as_task() -> None:
    """In the child, before it becomes a task: Slurm hands on no ignored signals; it ends with us, however we end."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    """Returns a port that nobody listens at, below those that Linux gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
