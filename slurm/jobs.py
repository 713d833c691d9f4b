"""What Slurm says of jobs: squeue for those it still knows, sacct, where there is accounting, for the others.

`squeue --states=all` also names jobs that ended less than MinJobAge (300 s) ago: what `scontrol show job` knows, of all
jobs in one call. Every call has a time limit: a client that finds no controller tries for 20 s.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LIMIT_S = 30.0
LOST = ("NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "REVOKED")
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", *LOST})
# A user's defaults for squeue and sacct: they choose columns, leave jobs out, or change how a time is written.
PREFERENCES = re.compile(r"(SQUEUE|SACCT)_|SLURM_TIME_FORMAT$")


@dataclass(frozen=True)
class Job:
    """A job: Slurm's state, its reason for it ("" if it gives none), the nodes as Slurm writes them."""

    state: str
    reason: str = ""
    nodes: str = ""
    elapsed: float | None = None  # seconds since this start

    @property
    def ended(self) -> bool:
        """Returns whether it is over."""
        return self.state in ENDED


class Slurm:
    """Slurm, to be asked once or again and again; an answer of sacct is final and is not asked for twice.

    `answers`: whether the last question about live jobs was answered. `complaint`: what went wrong then, "" if nothing.
    """

    def __init__(self, limit: float = LIMIT_S) -> None:
        self.answers, self.complaint = True, ""
        self._limit = limit
        self._old: dict[str, Job | None] = {}
        self._accounting = True

    def jobs(self, ids: Iterable[str]) -> dict[str, Job]:
        """Returns the jobs known to Slurm by their ids; of an array's member that is ARRAY_TASK."""
        wanted = sorted(set(ids))
        self.answers, self.complaint = True, ""
        if not wanted:
            return {}
        live = self._queue(wanted)
        for job in live:
            self._old.pop(job, None)
        missing = [job for job in wanted if job not in live and job not in self._old]
        if missing and self._accounting:
            found = self._accounts(missing)
            if found is not None:
                self._old |= dict.fromkeys(missing) | found
        known = {job: record for job, record in self._old.items() if record is not None} | live
        return {job: known[job] for job in wanted if job in known}

    def _queue(self, ids: Sequence[str]) -> dict[str, Job]:
        command = ("squeue", "--noheader", "--array", "--states=all", "-j", _bases(ids), "-o", "%i|%T|%M|%N|%r")
        code, out, said = self._call(*command)
        if code and "Invalid job id" not in said:  # which it says of a single job that it does not know
            self.answers, self.complaint = False, said
            return {}
        rows = (line.split("|", 4) for line in out.splitlines())
        return {
            job: Job(state, "" if reason == "None" else reason, nodes, _seconds(elapsed))
            for job, state, elapsed, nodes, reason in (row for row in rows if len(row) == 5)
        }

    def _accounts(self, ids: Sequence[str]) -> dict[str, Job] | None:
        code, out, said = self._call("sacct", "-j", _bases(ids), "-X", "-n", "-P", "-o", "JobID,State,NodeList")
        if code:
            self._accounting = not (code == 127 or "storage is disabled" in said)
            self.complaint = self.complaint or (said if self._accounting else "")
            return None
        found = {}
        for job, state, nodes in (row for row in (line.split("|") for line in out.splitlines()) if len(row) == 3):
            record = Job(state.split()[0], "", "" if nodes == "None assigned" else nodes)  # "CANCELLED by 1000"
            # The database may believe for ever that a job runs whose end it was not told.
            if job in ids and (record.ended or not self.answers):
                found[job] = record
        return found

    def _call(self, *command: str) -> tuple[int, str, str]:
        """Returns exit code, output and what a command complains of, in one line."""
        env = {key: value for key, value in os.environ.items() if not PREFERENCES.match(key)}
        try:
            asked = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=env,
                process_group=0,
            )
        except OSError:
            return 127, "", f"{command[0]} was not found"
        try:
            out, err = asked.communicate(timeout=self._limit)
        except BaseException as error:
            os.killpg(asked.pid, signal.SIGKILL)  # a site's squeue may be a script, whose child holds the pipes
            asked.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return 124, "", f"{command[0]} gave no answer within {self._limit:g} s"
            raise
        said = [line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in err.splitlines()]
        return asked.returncode, out, f"{command[0]}: {said[-1].strip()}" if said else f"{command[0]} failed"


def _bases(ids: Iterable[str]) -> str:
    """Returns the ids with an array once instead of its members."""
    return ",".join(dict.fromkeys(job.split("_")[0] for job in ids))


def _seconds(text: str) -> float | None:
    """Returns the seconds of D-HH:MM:SS, HH:MM:SS or MM:SS."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
