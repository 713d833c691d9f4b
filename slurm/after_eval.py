"""What the batch script of an evaluation runs when srun has ended: a stopped one comes back.

    srun ... eval_linear.py ...; python slurm/after_eval.py --code $?

eval_linear.py saves and leaves with 75 when it is asked to stop. Then the job is requeued, unless a person has
cancelled it or Slurm requeues it by itself: in both cases it does not run any more (verdict.py). A failure is not
repeated. Leaves with srun's code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path

from slurm import verdict
from slurm.task import STOPPED, job_id


def main(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="slurm/after_eval.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    parser.add_argument("--max-restarts", type=int, default=verdict.MAX_RESTARTS, help="of one job")
    args = parser.parse_args(argv)
    if args.code == STOPPED:
        job, restart = job_id(env), int(env.get("SLURM_RESTART_COUNT") or 0)
        found = verdict.on_stop(verdict.job_facts(job), None, restart, args.max_restarts, lambda: verdict.requeue(job))
        print(f"slurm: the evaluation was stopped and has saved; {found}", file=sys.stderr, flush=True)
    return args.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
