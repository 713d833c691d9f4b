"""Submit a run, or a sweep of runs, through submitit; everything is checked before anything is queued.

    python -m slurm.submit barlow_twins_rn50 --nodes 4 --gpus-per-node 8 --data D --out O [--partition P ...] [knobs]
    python -m slurm.submit ... --dry-run                           the sbatch text, what each rank runs; queues nothing
    python -m slurm.submit ... --seeds 3 --sweep lambd=0.003,0.005 one job array, a run folder a member
    python -m slurm.submit ... --then-eval                         eval_linear.py when the run is finished

What is no flag of this command is a knob or a flag of `pretrain.py RECIPE`. Exit codes: 0 queued; 2 bad input, nothing
queued; 3 queued, but Slurm says that it can never start.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import history, snapshot
from .config import Request, add_flags, from_flags, user_defaults
from .executor import make_executor, require_slurm, text
from .jobs import Slurm
from .sweep import Member, expand

REASON_WAIT_S = 8.0
# Slurm keeps such a job pending until somebody changes the cluster or the job. Source: the reason codes in squeue's
# manual page.
NEVER = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|PartitionDown|PartitionInactive|BadConstraints|AccountNotAllowed"
    r"|QOSNotAllowed|InvalidAccount|InvalidQOS|DependencyNeverSatisfied|JobHeld|Max\w*PerJob\w*|MaxTimePerAccount"
)


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        user = user_defaults()
        args, rest = parse(argv, user)
        request = from_flags(args, user)
        return submit(args, rest, request)
    except ValueError as error:
        print(f"slurm.submit: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str], user: dict[str, Any]) -> tuple[argparse.Namespace, list[str]]:
    """Returns (our flags, what is pretrain.py's)."""
    parser = argparse.ArgumentParser(
        prog="python -m slurm.submit",
        usage="python -m slurm.submit RECIPE --out DIR [--data DIR] [flags] [knobs of the recipe]",
        description=(__doc__ or "").splitlines()[0],
        epilog="Other flags are those of `python pretrain.py RECIPE --help`.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="as in pretrain.py")
    parser.add_argument("--out", type=Path, required=True, help="run folder; of a sweep, the folder of its run folders")
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--dry-run", action="store_true", help="show what would be queued")
    parser.add_argument("--seeds", type=int, metavar="N", help="members with seed 0 to N - 1")
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KNOB=A,B,...",
        help="members with each value; repeatable: all pairs",
    )
    parser.add_argument(
        "--then-eval", action="store_true", help="evaluate each run by eval_linear.py when it is finished"
    )
    parser.add_argument(
        "--eval-flags", default="", metavar="'FLAGS'", help="of eval_linear.py, such as '--protocol bt-100ep'"
    )
    parser.add_argument(
        "--eval-gpus", type=int, default=1, metavar="N", help="of one node, for the evaluation; the same numbers on any"
    )
    add_flags(parser, user)
    return parser.parse_known_args(list(argv))


def submit(args: argparse.Namespace, rest: Sequence[str], request: Request) -> int:
    """Checks, queues and reports; returns the exit code.

    Raises:
        ValueError: bad input; nothing was queued.
    """
    if args.eval_gpus < 1:
        raise ValueError(f"--eval-gpus {args.eval_gpus} should be at least 1")
    if not args.dry_run:
        require_slurm()
    flags = [*rest, *(["--data", str(args.data)] if args.data is not None else []), *timeout(rest, request)]
    members = expand(args.recipe, args.out, args.sweep, args.seeds, flags, rest)
    check(members, request)
    if args.then_eval:
        check_evaluation(evaluation_flags(args, members[0]))
    folder = args.out.absolute() / history.FOLDER
    code = folder / "code-(digest)" if args.dry_run else snapshot.take(args.out)
    commands = [rank_command(member, args, request, code) for member in members]
    lines = after(members, request, code)
    executor = make_executor(folder, _name(args), request, len(members), teardown=lines)
    if args.dry_run:
        print(text(executor, len(members)))
        for number, command in enumerate(commands):
            which = f" of array task {number}" if len(commands) > 1 else ""
            print(f"# each rank{which} runs, in {Path.cwd()}:\n{shlex.join(command)}\n")
        return 0

    # The pickle holds os.execvp and a list of words: nothing of ours that could be missing or other code on the node.
    import submitit.core.utils as submitit_errors

    try:
        with executor.batch():
            jobs = [executor.submit(os.execvp, command[0], command) for command in commands]
    except (submitit_errors.FailedJobError, submitit_errors.FailedSubmissionError) as error:
        raise ValueError(f"Slurm refused it: {_slurms_words(str(error))}") from None
    for member, command, job in zip(members, commands, jobs, strict=True):
        fields = {"command": command, "nodes": request.nodes, "ranks": request.ranks, "code": code.name}
        history.append(member.run, "submitted", job=job.job_id, log=str(job.paths.stderr), **fields)
        print(f"job {job.job_id}: {member.run}")
    print(f"logs: {folder}/{jobs[0].job_id}_0_log.err (rank 0), ..._log.out; `python -m slurm.status {args.out}` looks")
    if args.then_eval:
        evaluation = _submit_evaluation(args, request, members, code, jobs)
        print(f"then eval_linear.py: job {evaluation}")
    return _report(jobs[0].job_id)


def timeout(rest: Sequence[str], request: Request) -> list[str]:
    """Returns the flag by which ranks give up a silent one well before the notice's lead is over, unless it was given.

    Raises:
        ValueError: the one that was given is longer than the lead: the limit would come while ranks still wait.
    """
    words = [part for word in rest for part in word.split("=", 1)]
    given = [value for word, value in itertools.pairwise(words) if word.replace("_", "-") == "--timeout-min"]
    if not given:
        return ["--timeout-min", f"{0.75 * request.lead / 60:g}"]
    if re.fullmatch(r"[\d.]+", given[-1]) and float(given[-1]) * 60 >= request.lead:
        raise ValueError(
            f"--timeout-min {given[-1]} should be below the {request.lead} s of --lead: the time limit would come "
            "while ranks still wait for a dead one"
        )
    return []


def check(members: Sequence[Member], request: Request) -> None:
    """Has pretrain.py find what is wrong with the commands: recipe, knobs, images, batch, run folder.

    Raises:
        ValueError: something is; its message has been printed.
    """
    command = [sys.executable, str(snapshot.REPOSITORY / "pretrain.py"), "--check", str(request.ranks)]
    text = json.dumps([member.arguments for member in members])
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "SLURM_PROCID")}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise ValueError(f"nothing was queued: `pretrain.py {shlex.join(members[0].arguments)}` cannot run as asked")
    sys.stderr.write(done.stdout)


def check_evaluation(flags: Sequence[str]) -> None:
    """Has eval_linear.py parse its flags; the run that they name is not there yet.

    Raises:
        ValueError: something is wrong; its message has been printed.
    """
    code = "import sys; from evaluation.command import parse; parse(sys.argv[1:], None)"
    command = (sys.executable, "-c", code, *flags)
    done = subprocess.run(command, cwd=snapshot.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr.strip().splitlines()[-1] + "\n" if "Traceback" in done.stderr else done.stderr)
        raise ValueError(f"nothing was queued: `eval_linear.py {shlex.join(flags)}` cannot run as asked")


def evaluation_flags(args: argparse.Namespace, member: Member) -> list[str]:
    """Returns the arguments of eval_linear.py for one run."""
    data = ["--data", str(args.data)] if args.data is not None else []
    return ["--run", str(member.run), *data, *shlex.split(args.eval_flags)]


def rank_command(member: Member, args: argparse.Namespace, request: Request, code: Path) -> list[str]:
    """Returns what each rank runs: the task, outside of a container since it calls Slurm, and in it the training."""
    task = [request.python or sys.executable, "-u", str(code / "slurm" / "task.py"), "--run", str(member.run)]
    task += ["--lead", str(request.lead), "--max-restarts", str(request.max_restarts), "--"]
    return [*task, *in_container(args, request), "-u", str(code / "pretrain.py"), *member.arguments]


def after(members: Sequence[Member], request: Request, code: Path) -> list[str]:
    """Returns the lines of the batch script that follow srun: slurm/after.py on the run of this array task."""
    runs = shlex.join(str(member.run) for member in members)
    words = [request.python or sys.executable, str(code / "slurm" / "after.py"), "--max-restarts"]
    command = f'{shlex.join(words)} {request.max_restarts} --run "${{runs[${{SLURM_ARRAY_TASK_ID:-0}}]}}" --code $code'
    return ["code=$?", f"runs=({runs})", command]


def in_container(args: argparse.Namespace, request: Request) -> list[str]:
    """Returns the Python that trains, with the words before it that put it into the container if there is one."""
    if not request.container:
        return [request.python or sys.executable]
    places = [args.out.absolute(), *(sources(args.data) if args.data else [])]
    gpu = ["--nv"] if request.gpus_per_node else []
    return ["apptainer", "exec", *gpu, "--bind", ",".join(map(str, places)), request.container, "python3"]


def sources(data: Path) -> list[Path]:
    """Returns what `--data` names on the disk: itself; of `A.tar::B/{0000..0331}.tar` the file A.tar and folder B."""
    named = str(data).split("::")
    return [(Path(name.split("{")[0] + "x").parent if "{" in name else Path(name)).absolute() for name in named]


def _name(args: argparse.Namespace) -> str:
    return f"{args.recipe} {args.out.name}"


def _submit_evaluation(
    args: argparse.Namespace, request: Request, members: Sequence[Member], code: Path, jobs: Sequence[Any]
) -> str:
    """Queues eval_linear.py for each member once its run is finished; returns the job's number."""
    gpus = min(request.gpus_per_node, args.eval_gpus)
    one = dataclasses.replace(request, nodes=1, gpus_per_node=gpus, tasks_per_node=0)
    first = jobs[0].job_id.split("_")[0]
    kind = "aftercorr" if len(jobs) > 1 else "afterok"  # of an array: each after its own member
    folder = args.out.absolute() / history.FOLDER
    end = shlex.join([request.python or sys.executable, str(code / "slurm" / "after_eval.py"), "--max-restarts"])
    lines = ["code=$?", f"{end} {request.max_restarts} --code $code"]
    executor = make_executor(folder, f"eval {_name(args)}", one, len(jobs), f"{kind}:{first}", lines)
    script = [*in_container(args, one), "-u", str(code / "eval_linear.py")]
    commands = [[*script, *evaluation_flags(args, member)] for member in members]
    with executor.batch():
        queued = [executor.submit(os.execvp, command[0], command) for command in commands]
    return queued[0].job_id.split("_")[0]


def _report(job: str) -> int:
    """Says what Slurm makes of the job (of an array: of its first member that waits); returns the exit code."""
    end, slurm = time.monotonic() + REASON_WAIT_S, Slurm(limit=REASON_WAIT_S)
    found = slurm.jobs([job])
    while time.monotonic() < end and found and found[job].state == "PENDING" and not found[job].reason:
        time.sleep(0.5)
        found = slurm.jobs([job])
    if job not in found:
        print(f"job {job}: {slurm.complaint or 'it has left the queue already'}")
        return 0
    state, reason = found[job].state, found[job].reason
    print(f"job {job} is {state}" + (f": {reason}" if reason else ""))
    if state == "PENDING" and NEVER.search(reason):
        asked = "more or other resources than the partition has, or than you may use"
        print(f"slurm.submit: it can never start: {reason} ({asked}); scancel {job}", file=sys.stderr)
        return 3
    return 0


def _slurms_words(text: str) -> str:
    """Returns what sbatch said, out of submitit's message."""
    said = re.findall(r"sbatch: (?:error: )?(.+)", text)
    return "; ".join(dict.fromkeys(part.strip() for part in said)) or " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
