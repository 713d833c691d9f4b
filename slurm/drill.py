"""See on this machine, without Slurm, whether a run survives what a cluster does to it: the weights must be the same.

    python -m slurm.drill demo --images 80 --batch-size 16 --epochs 3 --no-evaluate
    python -m slurm.drill RECIPE [--data D] [--ranks 2] [--faults usr1,kill-all] [--out DIR] [knobs and flags]

The command runs once undisturbed, then once for each fault: disturbed at a random step, started again as a job is
requeued, and held against the first. What is no flag of this command is a knob or a flag of `pretrain.py RECIPE`; give
it small ones, since every run goes to its end. Each rank runs `slurm/task.py`, as in a job (slurm/drill_local.py).

Exit codes: 0 all passed; 1 not; 2 bad input, nothing was left behind; 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .drill_faults import FAULTS, Plan, disturb, finish
from .drill_local import FOREIGN
from .drill_outcome import Failed, weights

PROGRAM = Path(__file__).resolve().parents[1] / "pretrain.py"
MOST_SAVE_EVERY = 100
LAST_STEPS = 2  # in which no fault falls: the run might end before it is felt


def main(argv: Sequence[str], program: Path = PROGRAM) -> int:
    """Runs the command line, with `program` in place of pretrain.py; returns the exit code."""
    plan, code = None, 130
    try:
        plan = prepare(argv, program)
        code = run(plan)
    except ValueError as error:
        print(f"slurm.drill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("slurm.drill: interrupted; all that it started is ended", file=sys.stderr)
    if plan and plan.folder.is_dir():
        if plan.temporary and code == 0:
            shutil.rmtree(plan.folder)
        else:
            print(f"kept: {plan.folder}")
    return code


def prepare(argv: Sequence[str], program: Path) -> Plan:
    """Returns what the command line asks for; starts nothing but `--check`, and leaves nothing behind.

    Raises:
        ValueError: bad input; what pretrain.py says of its own has been printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m slurm.drill",
        usage="python -m slurm.drill RECIPE [--data DIR] [flags] [knobs of the recipe]",
        description=(__doc__ or "").splitlines()[0],
        epilog="faults:\n" + "\n".join(f"  {name:<11}  {fault.about}" for name, fault in FAULTS.items())
        + "\n\nOther flags are those of `python pretrain.py RECIPE --help`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("recipe", help="as in pretrain.py")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train together (default: 2)")
    parser.add_argument("--faults", help="comma-separated (default: all)")
    parser.add_argument("--seed", type=int, help="draws the steps of the faults (default: 0); the recipe's seed, too")
    parser.add_argument("--out", type=Path, help="folder that stays (default: a temporary one, kept if a fault fails)")
    parser.add_argument("--lead", type=float, default=120.0, help="seconds a run has to leave (default: 120)")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds without a step that are a hang (600)")
    args, rest = parser.parse_known_args(list(argv))
    if not sys.platform.startswith("linux"):
        raise ValueError(f"this is {sys.platform}: the drill, like slurm/task.py, needs Linux")
    for name in ("ranks", "lead", "patience"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name} {getattr(args, name)} should be positive")
    faults = list(FAULTS) if args.faults is None else args.faults.split(",")
    for name in faults:
        if name not in FAULTS:
            close = difflib.get_close_matches(name, FAULTS, n=1)
            raise ValueError(
                f"--faults {name!r}: " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(FAULTS)}")
            )
        if faults.count(name) > 1:
            raise ValueError(f"--faults names {name} twice")
    if given(rest, "workers") == "0" and "kill-worker" in faults:
        if args.faults is not None:
            raise ValueError("--faults kill-worker needs a data worker: --workers should be at least 1")
        faults.remove("kill-worker")
    folder = (args.out or Path(tempfile.gettempdir()) / f"ssl-drill-{secrets.token_hex(4)}").absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"--out {folder} is not empty: a drill wants a folder of its own")
    common = [] if args.seed is None else ["--seed", str(args.seed)]
    arguments = [args.recipe, *rest, *common]
    steps = check(program, args.ranks, args.patience, [args.recipe, "--out", str(folder / "reference"), *arguments[1:]])
    chosen = {"log-every": 1, "save-every": max(1, min(steps // 5, MOST_SAVE_EVERY))}
    for name in chosen:
        if (value := given(rest, name)) is not None:
            chosen[name] = int(value)
        else:
            arguments += [f"--{name}", str(chosen[name])]
    save_every = chosen["save-every"]
    # two checkpoints are there from the first on, and steps are left after the last
    window = 2 * save_every + 1, min(steps * 2 // 3, steps - LAST_STEPS - chosen["log-every"])
    if window[0] > window[1]:
        raise ValueError(
            f"{steps} steps with --save-every {save_every} and --log-every {chosen['log-every']} leave none at which "
            "two checkpoints are there and the end is not near: take more --epochs, or leave these flags out"
        )
    found = (args.ranks, args.seed or 0, steps, save_every, window, args.lead, args.patience)
    return Plan(program, tuple(arguments), tuple(faults), folder, args.out is None, *found)


def given(words: Sequence[str], name: str) -> str | None:
    """Returns the value of a flag among the words, None where it is not there."""
    value = None
    for number, word in enumerate(words):
        flag, equals, text = word.partition("=")
        if flag.replace("_", "-") == f"--{name}":
            value = text if equals else "".join(words[number + 1 : number + 2])
    return value


def check(program: Path, ranks: int, patience: float, arguments: Sequence[str]) -> int:
    """Returns the number of steps; has pretrain.py find what is wrong with the command.

    Raises:
        ValueError: something is; its message has been printed.
    """
    env = {key: value for key, value in os.environ.items() if not FOREIGN.match(key)}
    command = [sys.executable, str(program), "--check", str(ranks), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{shlex.join(command)} has no answer after {patience:g} s (--patience)") from None
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise ValueError(f"nothing was started: `{program.name} {shlex.join(arguments)}` cannot run as asked")
    found = re.search(r"(\d+) steps", done.stdout)
    assert found, done.stdout
    return int(found[1])


def run(plan: Plan) -> int:
    """Runs the reference and every fault, and reports; returns the exit code.

    Raises:
        ValueError: the folder cannot be made.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {plan.folder} cannot be written: {error.strerror or error}") from None
    where = (
        f"a checkpoint each {plan.save_every}; faults at steps {plan.window[0]} to {plan.window[1]}, seed {plan.seed}"
    )
    print(f"{plan.arguments[0]}: {plan.steps} steps on {plan.ranks} ranks, {where}", flush=True)
    began = time.monotonic()
    try:
        with plan.job("reference") as job:
            job.start()
            finish(job, plan)
            weights(job.run)
    except Failed as failure:
        print(f"FAIL  reference, which nobody disturbed: {failure}", flush=True)
        return 1
    print(f"reference: {time.monotonic() - began:.1f} s", flush=True)
    passed = 0
    for name in plan.faults:
        outcome = disturb(name, plan)
        print(outcome, flush=True)
        passed += not outcome.reason
        if plan.temporary and not outcome.reason:
            shutil.rmtree(plan.folder / name)
    print(f"{passed} of {len(plan.faults)} passed", flush=True)
    return 0 if passed == len(plan.faults) else 1


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was started is ended first
        signal.signal(number, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
