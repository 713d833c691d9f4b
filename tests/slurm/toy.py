"""A training without mathematics, which keeps pretrain.py's word: checkpoints by name, 75 when stopped, a done marker.

Each step hashes the one before, so the last digest tells whether a resume went on from the right place. Run by its
path; starts in a tenth of a second, so that what becomes of a *job* can be tested in seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

NOTICES = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}


def save(run: Path, step: int, digest: str) -> None:
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{step}.tmp"
    draft.write_text(digest)
    draft.rename(folder / f"step_{step:08d}.{digest[:32]}.pt")


def newest(run: Path) -> tuple[int, str]:
    files = sorted((run / "checkpoints").glob("step_*.pt"))
    return (int(files[-1].name[5:13]), files[-1].read_text()) if files else (0, "")


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds a step")
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--die-at", type=int, default=-1, help="step before which a rank dies, at every start")
    parser.add_argument("--die-rank", type=int, default=0)
    parser.add_argument("--die-once", action="store_true")
    parser.add_argument("--die-code", type=int, default=1, help="exit code; a negative one is a signal")
    parser.add_argument("--eat-at", type=int, default=-1, help="step before which 300 MB are taken, at the first start")
    parser.add_argument("--hang", action="store_true", help="does not leave when finished")
    parser.add_argument("--deaf", action="store_true", help="does not look at signals")
    parser.add_argument("--worker", action="store_true", help="with a child process, as data workers are")
    args = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    args.run.mkdir(parents=True, exist_ok=True)
    if (args.run / "done.json").exists():
        return 0
    if args.worker:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    step, digest = newest(args.run)
    first = step
    print(f"start at {step}", flush=True)
    while step < args.steps:
        if signal.sigpending() & NOTICES and not args.deaf:
            if rank == 0:
                save(args.run, step, digest)
            print(f"stopped at {step}", flush=True)
            return 75
        if step == args.die_at and rank == args.die_rank and not (args.die_once and first > 0):
            print(f"rank {rank} dies of a test", file=sys.stderr, flush=True)
            if args.die_code < 0:
                os.kill(os.getpid(), -args.die_code)
            return args.die_code
        if step == args.eat_at and first == 0:
            eaten = bytearray(300 * 2**20)
            time.sleep(20)
            del eaten
        time.sleep(args.pause)
        digest = hashlib.sha256(f"{digest} {step}".encode()).hexdigest()
        step += 1
        if rank == 0:
            (args.run / "step").write_text(str(step))
            if step % args.save_every == 0 or step == args.steps:
                save(args.run, step, digest)
    if rank == 0:
        (args.run / "result").write_text(digest)
        (args.run / "done.json").write_text("{}")
    if args.hang:
        time.sleep(1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
