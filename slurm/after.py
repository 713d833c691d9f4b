"""What the batch script runs when srun has ended: decides for the job where no task was left to do so.

    srun ...; python slurm/after.py --run RUN --code $?

All tasks may be killed at once, by Slurm's own limit on memory or by hand. Or one is, and srun ends the others by a
SIGTERM, which they take for a person's: srun's code is then not theirs. Or the rank that failed first was cut off from
Slurm. In these cases the rule for a failure (verdict.py) is applied here. Leaves with srun's code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path

from slurm import history, verdict
from slurm.task import STOPPED, job_id


def main(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slurm/after.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    parser.add_argument("--max-restarts", type=int, default=verdict.MAX_RESTARTS, help="of one job")
    args = parser.parse_args(argv)
    job, restart = job_id(env), int(env.get("SLURM_RESTART_COUNT") or 0)
    here = [line for line in history.read(args.run) if (line.get("job"), line.get("restart")) == (job, restart)]
    left = {verdict.UNASKED} | ({verdict.PERSON} if args.code != STOPPED else set())  # what is left to decide here
    decided = any(line["event"] in ("stop", "failed") and line["verdict"] not in left for line in here)
    if args.code == 0 or decided or history.is_done(args.run):
        return args.code
    step = history.saved_step(args.run)
    started = [line["step"] for line in here if line["event"] == "start"]
    progress = bool(started) and step > started[-1]
    found = verdict.on_failure(
        args.code,
        step,
        0 if progress else history.fruitless_failures(args.run) + 1,
        restart,
        args.max_restarts,
        lambda: verdict.job_facts(job).get("JobState", verdict.UNKNOWN),
        # After the line below: once it is requeued this process is ended.
        lambda: verdict.REQUEUED,
    )
    reason = f"tasks were killed, srun left with {args.code}"
    fields = {"job": job, "restart": restart, "step": step, "progress": progress, "verdict": found}
    history.append(args.run, "failed", **fields, reason=reason)
    if found == verdict.REQUEUED:
        found = verdict.requeue(job)
    print(f"slurm: {reason}; {found}", file=sys.stderr, flush=True)
    return args.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
