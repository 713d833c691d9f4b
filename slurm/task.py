"""What every task of a job runs: the training as its child, and what becomes of the job when that ends.

    srun ... python slurm/task.py --run RUN -- python pretrain.py RECIPE --out RUN ...

The training knows nothing of Slurm: asked to stop by a signal it saves and leaves with 75. Whether the job then comes
back is decided here (verdict.py says how), by rank 0's task; after a failure by the task of the rank that failed first.

Started by its path, with the standard library only: it must work where nothing else does.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, wherever that is

from slurm import history, verdict

NOTICES = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM})
STOPPED = 75  # training/stop.py: saved, run the same command again
SAVE_MARGIN_S = 20.0  # before the end of the lead, by which a run that does not leave is ended
HOLD_S = 60.0  # for Slurm to end the tasks of a job that was requeued
TRACEBACK_WAIT_S = 1.0  # for the note of another rank, whose end may be the reason for this traceback
ECHO_S = 3.0  # for rank 0 to show the first failure before srun ends all tasks
TAIL_LINES = 40


class Task:
    """One rank's task.

    Args:
        run: the run folder, on a disk that all nodes see.
        command: the training, as this rank runs it.
        env: with Slurm's variables; without SLURM_JOB_ID nothing is requeued (slurm.drill runs it so).
        lead: seconds between the notice of a time limit and the limit.
        exit_limit: seconds in which a finished run must have left.
        max_restarts: of one job; then it is not requeued any more.
    """

    def __init__(
        self,
        run: Path,
        command: Sequence[str],
        env: Mapping[str, str],
        lead: float,
        exit_limit: float,
        max_restarts: int,
    ) -> None:
        self.run, self.command = run, list(command)
        self.lead, self.exit_limit, self.max_restarts = lead, exit_limit, max_restarts
        self.job = job_id(env)
        self.restart = int(env.get("SLURM_RESTART_COUNT") or 0)
        self.rank = int(env.get("SLURM_PROCID") or env.get("RANK") or 0)
        self.nodes = env.get("SLURM_JOB_NODELIST", "")
        self.host = env.get("SLURMD_NODENAME") or socket.gethostname()
        self.note = run / history.FOLDER / f"failure-{self.job or 'local'}-{self.restart}.json"
        self.start_step = history.saved_step(run)
        self.notice: signal.Signals | None = None
        self.noticed_at = 0.0
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self.shown = False
        self.showing = threading.Lock()

    def main(self) -> int:
        """Returns the task's exit code when the training has ended and the job's fate is decided."""
        signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES | {signal.SIGCHLD})
        if self.rank == 0:
            if not self.job:  # no restart count: the note of an earlier start has the same name
                self.note.unlink(missing_ok=True)
            self._note("start", step=self.start_step, nodes=self.nodes)
        child = subprocess.Popen(self.command, stderr=subprocess.PIPE, preexec_fn=_as_child)
        assert child.stderr is not None
        pump = threading.Thread(target=self._pass_on, args=(child.stderr,), daemon=True)
        pump.start()
        code = self._watch(child)
        pump.join(2)
        if history.is_done(self.run):  # whatever it left with: the run is finished for good
            return 0
        if code == 0:
            return 0
        return self._stopped() if code == STOPPED else self._failed(code)

    def _watch(self, child: subprocess.Popen) -> int:
        """Returns the child's exit code; passes signals on, and ends a child that does not leave."""
        finished_at = None
        while True:
            got = signal.sigtimedwait(NOTICES | {signal.SIGCHLD}, 1.0)
            code = child.poll()
            if code is not None:
                return code
            now = time.monotonic()
            if got is not None and got.si_signo in NOTICES:
                self.notice, self.noticed_at = signal.Signals(got.si_signo), now
                child.send_signal(self.notice)  # Slurm may have signalled this process alone; a second one does nothing
            if history.is_done(self.run):
                finished_at = finished_at or now
                if now - finished_at > self.exit_limit:  # data workers, wandb or a driver may hang
                    self._say(f"the run is finished but has not left for {self.exit_limit:.0f} s: ended")
                    return _end(child, 0)
            elif (
                self.notice in (signal.SIGUSR1, signal.SIGUSR2)
                and self.rank == 0
                and now - self.noticed_at > self.lead - min(SAVE_MARGIN_S, self.lead / 4)
            ):
                self._say(f"no step ended within {now - self.noticed_at:.0f} s of {self.notice.name}: ended unsaved")
                return _end(child, STOPPED)
            if self.rank == 0:
                self._show_failure()

    # --- the training was asked to stop, and has saved

    def _stopped(self) -> int:
        if not self.job:
            return STOPPED
        if self.rank == 0:
            decided = verdict.on_stop(
                verdict.job_facts(self.job), self.notice, self.restart, self.max_restarts, self._requeue
            )
            name, step = self.notice.name if self.notice else None, history.saved_step(self.run)
            self._note("stop", step=step, signal=name, verdict=decided)
            self._say(f"stopped by {name or 'another rank'} at step {step}: {decided}")
            if decided != verdict.REQUEUED:
                return STOPPED
        self._hold(HOLD_S)
        return STOPPED

    def _requeue(self) -> str:
        return verdict.requeue(self.job)

    # --- the training has failed

    def _failed(self, code: int) -> int:
        """The task whose training failed first decides for the job; the others wait for their end."""
        shell_code = code if code > 0 else 128 - code
        reason = verdict.FINAL.get(code) or (f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}")
        if code == -signal.SIGKILL:
            reason += " (out of memory, or by hand)"
        facts = {"rank": self.rank, "host": self.host, "reason": reason, "code": code, "tail": list(self.tail)}
        if not self._claim(facts):
            self._show_failure()
            if self.notice != signal.SIGTERM:  # else the job's end has been announced already
                self._hold(HOLD_S)
            return shell_code
        step = history.saved_step(self.run)
        progress = step > self.start_step
        decided = "the same command resumes it" if step and code not in verdict.FINAL else "see above"
        if self.job:
            decided = verdict.on_failure(
                code,
                step,
                0 if progress else history.fruitless_failures(self.run) + 1,
                self.restart,
                self.max_restarts,
                lambda: verdict.job_facts(self.job).get("JobState", verdict.UNKNOWN),
                self._requeue,
            )
        where = {"rank": self.rank, "host": self.host, "reason": reason}
        self._note("failed", step=step, progress=progress, verdict=decided, **where)
        self._say(f"rank {self.rank} on {self.host} failed: {reason}; {decided}")
        if decided == verdict.REQUEUED:
            self._hold(HOLD_S)
        elif self.rank > 0:
            self._hold(ECHO_S)
        return shell_code

    def _claim(self, facts: dict[str, Any]) -> bool:
        """Leaves the note of the first failure; returns False where another rank did."""
        draft = self.note.with_name(f".{self.note.name}.{self.rank}.tmp")
        try:
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(facts) + "\n", encoding="utf-8")
            os.link(draft, self.note)  # appears whole, and only once
        except FileExistsError:
            draft.unlink(missing_ok=True)
            return False
        except OSError as error:
            self._say(f"{self.note} cannot be written: {error.strerror or error}")
        with contextlib.suppress(OSError):
            draft.unlink()
        return True

    def _show_failure(self) -> None:
        """Shows the first failure in this rank's log, so that the reader of one log finds the cause."""
        with self.showing:
            if self.shown or self.rank != 0 or not self.note.is_file():
                return
            self.shown = True
        facts = json.loads(self.note.read_text(encoding="utf-8"))
        if facts["rank"] != self.rank:
            self._say(f"rank {facts['rank']} on {facts['host']} failed first: {facts['reason']}")
            for line in facts["tail"]:
                print(f"    {line}", file=sys.stderr, flush=True)

    # --- small parts

    def _hold(self, seconds: float) -> None:
        """Waits for Slurm to end this task, so that srun does not end the others first."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            got = signal.sigtimedwait({signal.SIGTERM}, min(left, 0.5))
            if self.rank == 0:
                self._show_failure()
            if got is not None:
                return

    def _pass_on(self, stream: BinaryIO) -> None:
        """Passes the child's stderr on and keeps its last lines; a peer's failure is shown before what it leads to."""
        for line in iter(stream.readline, b""):
            if self.rank == 0 and b"Traceback (most recent call last)" in line:
                end = time.monotonic() + TRACEBACK_WAIT_S
                while not self.note.is_file() and time.monotonic() < end:
                    time.sleep(0.05)
                self._show_failure()
            with contextlib.suppress(OSError):
                os.write(2, line)
            self.tail.append(line.decode(errors="replace").rstrip("\n"))

    def _note(self, event: str, **fields: Any) -> None:
        """Adds to the run's history. A disk that takes no line must not decide over the job; the training names it."""
        with contextlib.suppress(OSError):
            history.append(self.run, event, job=self.job, restart=self.restart, **fields)

    def _say(self, text: str) -> None:
        print(f"slurm: {text}", file=sys.stderr, flush=True)


def job_id(env: Mapping[str, str]) -> str:
    """Returns what names this job alone, "" outside of Slurm.

    Of an array that is ARRAY_TASK: the last task's SLURM_JOB_ID is the array's own, and requeueing that restarts every
    task, finished ones included.
    """
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID", "")


def _as_child() -> None:
    """In the child, before it becomes the training: it ends with this task, and hears of its own children."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _end(child: subprocess.Popen, code: int) -> int:
    child.kill()
    child.wait()
    return code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slurm/task.py", description="one rank of a job", allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--lead", type=float, default=verdict.LEAD_S, help="seconds from the notice to the time limit")
    parser.add_argument("--exit-limit", type=float, default=60.0, help="seconds in which a finished run must leave")
    parser.add_argument("--max-restarts", type=int, default=verdict.MAX_RESTARTS, help="of one job")
    parser.add_argument("command", nargs="+", help="after --: the training")
    args = parser.parse_args(argv)
    return Task(args.run, args.command, os.environ, args.lead, args.exit_limit, args.max_restarts).main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
