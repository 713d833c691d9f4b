"""Whether a job comes back, once its training has ended other than by finishing.

An exit code cannot say it: Slurm calls 0 in the grace period of a preemption COMPLETED and anything else FAILED, and
starts neither again. So somebody has to call `scontrol requeue`, but never for a job that a person has cancelled. What
tells the two apart is `scontrol show job`, asked after the signal came (seen on Slurm 22.05):

| event | signals | JobState | PreemptTime |
|---|---|---|---|
| notice of the time limit | the one of --signal | RUNNING | None |
| preemption, in its grace | CONT and TERM, or the one of --signal | RUNNING | set |
| preemption without grace, or after it | CONT and TERM | COMPLETING, Restarts + 1 | |
| scancel | CONT and TERM | COMPLETING | None |
| node lost, requeued by somebody | CONT and TERM | COMPLETING | |
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Mapping

FINAL = {  # exit codes of pretrain.py after which the same command would fail again
    2: "bad input",
    70: "the loss is not finite",
    74: "no checkpoint could be written",
}
LEAD_S = 120  # from the notice of a time limit to the limit; pretrain.sbatch says the same to Slurm
MAX_RESTARTS = 1000  # of one job
FRUITLESS_LIMIT = 2  # failures in a row without a new checkpoint, after which the job is given up
REQUEUED = "requeued"
UNKNOWN = "unknown to Slurm"
UNASKED = "Slurm cannot be asked from this node; the batch script decides"
PERSON = "not requeued, it was a signal from a person; the same command resumes it"


def job_facts(job: str) -> dict[str, str]:
    """Returns the fields of `scontrol show job`, {} if Slurm does not answer."""
    command = ("scontrol", "show", "job", "-o", job)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)


def requeue(job: str) -> str:
    """Requeues the job; returns REQUEUED, or why it could not be."""
    try:
        done = subprocess.run(("scontrol", "requeue", job), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be requeued: {error}; the same command resumes it"
    if done.returncode:
        return f"could not be requeued: {' '.join(done.stderr.split())}; the same command resumes it"
    return REQUEUED


def on_stop(
    facts: Mapping[str, str],
    notice: signal.Signals | None,
    restart: int,
    max_restarts: int,
    requeue: Callable[[], str],
) -> str:
    """Returns the verdict on a job whose training was asked to stop and has saved.

    Args:
        facts: of the job, from `job_facts`.
        notice: the signal that this task got; None: another task got one.
        restart: how often the job was restarted before this start.
        requeue: does it, and returns what came of it.
    """
    state = facts.get("JobState", UNKNOWN)
    preempted = facts.get("PreemptTime", "None") != "None"
    if state == "COMPLETING" and int(facts.get("Restarts", 0)) > restart:
        return "Slurm requeues it by itself"
    if state != "RUNNING":  # scancel, a lost node, a requeue by somebody else: Slurm knows what to do
        return f"not requeued, the job is {state}"
    if notice == signal.SIGTERM and not preempted:
        return PERSON
    if restart >= max_restarts:
        return f"not requeued, it was restarted {restart} times; the same command resumes it"
    return requeue()


def on_failure(
    code: int,
    step: int,
    fruitless: int,
    restart: int,
    max_restarts: int,
    state: Callable[[], str],
    requeue: Callable[[], str],
) -> str:
    """Returns the verdict on a job one of whose ranks has failed.

    Args:
        code: exit code of the training; negative: the signal that killed it.
        step: of the newest checkpoint, 0 without one.
        fruitless: starts in a row, this one included, that failed without a new checkpoint.
        state: asks for the job's state; UNKNOWN if there is no answer.
        requeue: as in `on_stop`.
    """
    if code in FINAL:
        return "not requeued, the same again would fail again"
    if step == 0:  # a mistake is likelier than a fault of the machine
        return "not requeued, it failed before anything was saved"
    if fruitless >= FRUITLESS_LIMIT:
        return f"not requeued, {fruitless} starts failed at step {step} without a new checkpoint"
    if restart >= max_restarts:
        return f"not requeued, it was restarted {restart} times; the same command resumes it"
    found = state()
    if found == UNKNOWN:  # cut off from the cluster, as its failure may come from
        return UNASKED
    return requeue() if found == "RUNNING" else f"not requeued, the job is {found}"
