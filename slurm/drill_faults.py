"""What a cluster does to a run, done by `slurm.drill` on purpose, and whether the run came out the same."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import history
from .drill_local import Hung, Job, send
from .drill_outcome import Failed, Outcome, first_difference, repeated, weights
from .task import STOPPED
from .verdict import FINAL


class Fault(NamedTuple):
    """What is done to a run."""

    about: str
    number: signal.Signals
    whom: str = "all"  # "all" processes, the training of one "rank", or one data "worker"
    limited: bool = False  # SIGKILL to all that is left, --lead seconds later
    damaged: bool = False  # and one bit of the newest checkpoint flips
    checkpoints_lost: int = 1  # at most so many times --save-every steps are repeated


FAULTS = {
    "usr1": Fault("SIGUSR1 to all processes", signal.SIGUSR1, checkpoints_lost=0),
    "usr2": Fault("SIGUSR2 to all processes", signal.SIGUSR2, checkpoints_lost=0),
    "term": Fault("SIGTERM to all processes: a preemption", signal.SIGTERM, checkpoints_lost=0),
    "time-limit": Fault("SIGUSR2 to all processes, SIGKILL --lead seconds later", signal.SIGUSR2, limited=True),
    "kill-rank": Fault("kill -9 of one rank's training: out of memory", signal.SIGKILL, "rank"),
    "kill-all": Fault("kill -9 of all processes: power", signal.SIGKILL),
    "kill-worker": Fault("kill -9 of one data worker", signal.SIGKILL, "worker"),
    "damage": Fault(
        "a flipped bit in the newest checkpoint, and kill -9 of all", signal.SIGKILL, damaged=True, checkpoints_lost=2
    ),
}


@dataclass(frozen=True)
class Plan:
    """What to run and where."""

    program: Path
    arguments: tuple[str, ...]  # of the program, but for --out
    faults: tuple[str, ...]
    folder: Path
    temporary: bool
    ranks: int
    seed: int
    steps: int
    save_every: int
    window: tuple[int, int]  # the first and the last step at which a fault may fall
    lead: float
    patience: float

    def job(self, name: str) -> Job:
        """Returns the run that belongs to a fault, in a folder of its own."""
        run = self.folder / name
        recipe, *flags = self.arguments
        return Job(run, self.program, (recipe, "--out", str(run), *flags), self.ranks, self.lead)


def disturb(name: str, plan: Plan) -> Outcome:
    """Returns what became of a run that was disturbed once and started again."""
    fault, rng, outcome = FAULTS[name], random.Random(f"{plan.seed} {name}"), Outcome(name)
    job = plan.job(name)
    try:
        with job:
            job.start()
            reach(job, rng.randint(*plan.window), plan)
            began, outcome.step = time.monotonic(), job.step()
            hit(job, fault, rng)
            complaint = leave(job, fault, plan)
            outcome.exit_s = time.monotonic() - began
            if fault.damaged:
                flip_a_bit(job.run, rng)
            if not history.is_done(job.run):
                before, began = job.recorded(), time.monotonic()
                job.start()
                if alive(job, plan, lambda: job.recorded() > before):
                    outcome.again_s = time.monotonic() - began
                finish(job, plan)
        reference = plan.folder / "reference"
        outcome.equal = weights(job.run) == weights(reference)
        outcome.repeated = repeated(job.run)
        most = plan.save_every * fault.checkpoints_lost
        if not outcome.equal:
            raise Failed(f"{first_difference(job.run, reference)}: compare {job.run} and {reference}")
        if complaint:
            raise Failed(complaint)
        if outcome.repeated > most:
            raise Failed(f"repeated {outcome.repeated} steps, at most {most} are lost by this: {see(job)}")
    except Failed as failure:
        outcome.reason = str(failure)
    outcome.starts = job.starts
    return outcome


def hit(job: Job, fault: Fault, rng: random.Random) -> None:
    """Does to the processes what the fault says."""
    if fault.whom == "all":
        job.deliver(fault.number)
        return
    rank = rng.randrange(job.ranks)
    victims = job.workers(rank) if fault.whom == "worker" else job.trainings(rank)
    if not victims:
        wanted = "data worker" if fault.whom == "worker" else "training"
        raise Failed(f"rank {rank} has no {wanted} to kill: {see(job)}")
    send(rng.choice(victims), fault.number)


def leave(job: Job, fault: Fault, plan: Plan) -> str:
    """Waits until all ranks have left; returns what Slurm would not forgive although the run can go on by hand.

    Raises:
        Failed: they do not leave, or in a way after which a job does not come back.
    """
    name, before = fault.number.name, job.step()
    killed = fault.number == signal.SIGKILL
    try:
        if killed:  # those who are left have nothing to keep to but the end of srun
            job.wait(plan.patience)
        else:
            job.wait(plan.lead, renewed=False)
    except Hung:
        if not fault.limited:
            bound = f"{plan.patience:g} s without a step (--patience)" if killed else f"{plan.lead:g} s (--lead)"
            raise Failed(f"hung: still there {bound} after {name}: {see(job)}") from None
        job.deliver(signal.SIGKILL)
        alive(job, plan, lambda: False)
        late = f"still there {plan.lead:g} s after {name} (--lead)"
        return f"{late}: Slurm ends that job as TIMEOUT and never starts it again: {see(job)}"
    codes = job.codes()
    if history.is_done(job.run):
        more = job.step() - before
        if fault.whom == "worker" and more > 0:
            return ""  # it did without
        if killed or more <= 1:
            raise Failed(f"it had ended before {name} was felt: give it more steps")
        raise Failed(f"ignored {name}: made {more} more steps, to its end: {see(job)}")
    if killed and any(codes):
        judged = [rank for rank, code in enumerate(codes) if code in FINAL]
    else:  # at a time limit rank 0's task decides, and takes the others along
        judged = [rank for rank, code in enumerate(codes[:1] if fault.limited else codes) if code != STOPPED]
    for rank in judged:
        meaning = (
            "which Slurm takes for the end of the run" if codes[rank] == 0 else "after which a job does not come back"
        )
        raise Failed(f"rank {rank} {left(codes[rank])} at {name}, {meaning}: {see(job, rank)}")
    return ""


def reach(job: Job, step: int, plan: Plan) -> None:
    """Waits until a step is on record."""
    if not alive(job, plan, lambda: job.step() >= step):
        raise Failed(f"ended before step {step}, undisturbed: {see(job, job.culprit)}")


def finish(job: Job, plan: Plan) -> None:
    """Waits for the end of a run that nobody disturbs any more."""
    alive(job, plan, lambda: False)
    order = sorted(range(job.ranks), key=lambda rank: rank != job.culprit)
    for rank in order:
        if code := job.codes()[rank]:
            raise Failed(f"start {job.starts}, undisturbed: rank {rank} {left(code)}: {see(job, rank)}")
    if not history.is_done(job.run):
        raise Failed(f"start {job.starts} left with 0, but the run is not finished (no done.json): {see(job)}")


def alive(job: Job, plan: Plan, until: Callable[[], bool]) -> bool:
    """Returns True once `until` holds, False when all ranks have ended before."""
    try:
        return job.wait(plan.patience, until)
    except Hung:
        made = f"hung: start {job.starts} made no step for {plan.patience:g} s (--patience)"
        raise Failed(f"{made}: {see(job)}") from None


def flip_a_bit(run: Path, rng: random.Random) -> None:
    """Damages the newest checkpoint, as a disk does."""
    names = [path for path in (run / "checkpoints").glob("*") if history.CHECKPOINT.fullmatch(path.name)]
    if not names:
        raise Failed(f"there is no checkpoint to damage in {run / 'checkpoints'}")
    with max(names, key=lambda path: path.name).open("r+b") as file:
        place = rng.randrange(file.seek(0, 2))
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def left(code: int | None) -> str:
    """Returns an exit code in words."""
    by = next((number.name for number in signal.Signals if code in (-number, 128 + number)), None)
    meaning = FINAL.get(code or 0) or (by and f"killed by {by}")
    return f"left with {code}" + (f" ({meaning})" if meaning else "")


def see(job: Job, rank: int | None = None) -> str:
    """Returns where to look."""
    return f"see {job.log(rank or 0)}"
