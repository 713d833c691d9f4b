"""In place of pretrain.py under `slurm.drill`: starts at once; the name of the recipe says what is wrong with it.

honest     nothing: each step hashes the one before, a signal saves and leaves with 75, a dead data worker ends it
forgets    goes on at the right step with another state
scratch    never looks at its checkpoints
deaf       goes on when it is signalled
zero       leaves with 0 when it is signalled
unsaved    leaves with 75 when it is signalled, without a checkpoint
hangs      never leaves when it is signalled
stuck      makes no step after it was started again
refuses    calls its own checkpoint bad input
breaks     fails half-way, undisturbed
bad        `--check` refuses it
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS, PAUSE_S = 30, 0.02
NOTICES = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}


def save(run: Path, step: int, state: str) -> None:
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    draft = folder / f".{step}.tmp"
    draft.write_text(state)
    draft.rename(folder / f"step_{step:08d}.{hashlib.sha256(state.encode()).hexdigest()[:32]}.pt")


def newest(run: Path) -> tuple[int, str]:
    for path in sorted((run / "checkpoints").glob("step_*.pt"), reverse=True):
        if hashlib.sha256(path.read_bytes()).hexdigest()[:32] == path.name.split(".")[1]:  # else it is damaged
            return int(path.name[5:13]), path.read_text()
    return 0, ""


def work() -> int:
    """Starts a data worker, which lives as long as this process; returns its pid."""
    me = os.getpid()
    if pid := os.fork():
        return pid
    while os.getppid() == me:
        time.sleep(PAUSE_S)
    os._exit(0)


def complete(run: Path) -> bool:
    """Whether all ranks are there; like a collective, a step waits for them."""
    pids = [run / f"pid{rank}" for rank in range(int(os.environ["WORLD_SIZE"]))]
    return all(path.exists() and Path("/proc", path.read_text()).exists() for path in pids)


def train(kind: str, run: Path, save_every: int) -> int:
    rank = int(os.environ["RANK"])
    (run / f"env{rank}.json").write_text(json.dumps(dict(os.environ)))
    (run / f"pid{rank}").write_text(str(os.getpid()))
    if (run / "done.json").exists():
        return 0
    step, state = (0, "") if kind == "scratch" else newest(run)
    if step and kind == "refuses":
        return 2
    if step and kind == "forgets":
        state = ""
    worker = work()
    try:
        while step < STEPS and not (run / "done.json").exists():
            if signal.sigpending() & NOTICES and kind != "deaf":
                if rank == 0 and kind != "unsaved":
                    save(run, step, state)
                while kind == "hangs":
                    time.sleep(1)
                return 0 if kind == "zero" else 75
            if os.waitpid(worker, os.WNOHANG)[0]:
                return 1
            time.sleep(PAUSE_S)
            if kind == "stuck" and newest(run)[0] and os.environ["SLURM_RESTART_COUNT"] != "0":
                continue
            if rank > 0 or not complete(run):  # rank 0 leads
                continue
            step, state = step + 1, hashlib.sha256(f"{state}{step}".encode()).hexdigest()
            if kind == "breaks" and step == STEPS // 2:
                return 1
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "loss": int(state[:6], 16) / 1e6}) + "\n")
            if step % save_every == 0:
                save(run, step, state)
    finally:
        os.kill(worker, signal.SIGKILL)
    if rank == 0:
        (run / "encoder").mkdir()
        (run / "encoder" / "model.safetensors").write_text(state)
        (run / "done.json").write_text("{}")
    return 0


def main(argv: list[str]) -> int:
    if argv[0] == "--check":
        if argv[2] == "bad":
            print("pretrain.py: there is no recipe bad", file=sys.stderr)
            return 2
        print(f"{argv[4]}: 30 images, {STEPS} steps of 1 rows")
        return 0
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    return train(argv[0], Path(argv[argv.index("--out") + 1]), int(argv[argv.index("--save-every") + 1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
