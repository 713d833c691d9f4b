"""How runs stand: in Slurm's queue, in their folders, in their logs; a row each.

    python -m slurm.status                    the runs below this folder
    python -m slurm.status O/sweep O/other    run folders, or folders that hold some
    python -m slurm.status --watch 10         again every 10 s, until Ctrl-C
    python -m slurm.status --json             a JSON object a line, times in seconds, for other programs

Works without Slurm too. "running" on the word of Slurm that gave no sign of life for 5 minutes is "silent 12 min": it
may hang. Exit codes: 0; 2 a folder that does not exist or holds no run.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .jobs import Job, Slurm
from .status_files import DEPTH, RunFiles, find_runs, last_words
from .status_table import Row, duration, table

FRESH_S = 60.0  # a heartbeat comes every 5 s
SILENT_S = 300.0  # a step, or compiling before the first, may take a while
OVER = ("done", "stopped")  # phases of a heartbeat after which none comes
GOING = ("running", "evaluating")  # states with a speed and an end in sight


def look(run: RunFiles, job: Job | None, answers: bool, now: float) -> Row:
    """Returns what there is to say of a run.

    Args:
        job: what Slurm says of the run's newest job, None if it does not know it.
        answers: whether Slurm could be asked.
        now: seconds since 1970.
    """
    state, why = judge(run, job, answers, now)
    going, probe, log = state in GOING, run.probe(), run.log()
    step = run.step()
    return {
        "run": str(run.path),
        "job": run.job or None,
        "state": state,
        "why": why or None,
        "nodes": (job.nodes if job and job.nodes else "" if state == "pending" else run.nodes()) or None,
        "attempt": run.attempt(),
        "step": step,
        "total_steps": run.total_steps or (step if run.done is not None else None),
        "images_per_second": (run.heartbeat.get("images_per_second") or None) if going else None,
        "seconds_left": run.heartbeat.get("seconds_left") if going else None,
        "sign_of_life": run.since,
        "probe": probe[0] if probe else None,
        "probe_value": probe[1] if probe and math.isfinite(probe[1]) else None,
        "log": str(log) if log else None,
        "stderr": last_words(log) or None,
    }


def judge(run: RunFiles, job: Job | None, answers: bool, now: float) -> tuple[str, str]:
    """Returns (state, why it is so or "")."""
    if run.done is not None:
        return "done", ""
    age = None if run.since is None else max(0.0, now - run.since)
    if job and job.state == "RUNNING":
        quiet = min((value for value in (age, job.elapsed) if value is not None), default=0.0)
        if run.phase == "evaluating":  # which says so once
            return "evaluating", f"for {duration(quiet)}" if quiet > SILENT_S else ""
        if quiet > SILENT_S:
            return "silent", f"no sign of life for {duration(quiet)}"
        return ("running" if run.heartbeat else "starting"), ""
    alive = bool(run.heartbeat) and run.phase not in OVER
    fresh = alive and age is not None and age < FRESH_S
    # With a job that ended: somebody resumed it by hand, or it was refused since another trains the run.
    if alive and (run.is_alive_here() or (fresh and run.outlived)):
        return (run.phase if run.phase in GOING else "running"), ""
    if job and job.ended:
        return job.state.lower().replace("_", " "), run.why_ended() or job.reason
    if job:
        return job.state.lower().replace("_", " "), job.reason
    if run.ending:
        return "stopped", run.why_ended()
    if fresh:
        return (run.phase if run.phase in GOING else "running"), ""
    if run.phase in OVER:
        return "stopped", ""
    last = "" if age is None else f"; last sign of life {duration(age)} ago"
    if run.job and not answers:
        return "unknown", f"Slurm cannot be asked{last}"
    return "stopped", f"nobody said why{last}" if run.attempt() else "never started"


def find(folders: Sequence[Path]) -> list[Path]:
    """Returns the run folders in these folders, each once.

    Raises:
        ValueError: one does not exist or holds none.
    """
    what = "a run folder has recipe.json or slurm/history.jsonl in it"
    runs: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; {what}")
        found = [run.absolute() for run in find_runs(folder)]
        if not found:
            raise ValueError(f"{folder} holds no run down to {DEPTH} folders below it; {what}")
        runs |= dict.fromkeys(Path(os.path.normpath(run)) for run in found)
    return list(runs)


def rows(folders: Sequence[Path], slurm: Slurm) -> list[Row]:
    """Returns a row for each run in these folders.

    Raises:
        ValueError: as `find`.
    """
    runs = [RunFiles.read(path) for path in find(folders)]
    known = slurm.jobs(run.job for run in runs if run.job and run.done is None)
    now = time.time()
    return [look(run, known.get(run.job), slurm.answers, now) for run in runs]


def show(found: Sequence[Row], slurm: Slurm, as_json: bool) -> None:
    """Prints the rows, and on standard error what Slurm did not answer."""
    if as_json:
        print("\n".join(json.dumps(row) for row in found), flush=True)
    else:
        print(table(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None), flush=True)
    if slurm.complaint:
        print(f"slurm.status: {slurm.complaint}; the rest is from the run folders", file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m slurm.status", description=summary, allow_abbrev=False)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="run folder, or folder that holds some (default: this one)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--watch", type=seconds, metavar="N", help="again every N seconds, until Ctrl-C")
    args = parser.parse_args(list(argv))
    folders = args.folders or [folder for folder in (Path("runs"), Path()) if any(find_runs(folder))] or [Path()]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a log may hold what the terminal's encoding does not
    slurm = Slurm()
    try:
        found = rows(folders, slurm)
        while True:
            if args.watch and not args.json:
                clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else "\n"
                print(f"{clear}{time.strftime('%H:%M:%S')}, again every {args.watch:g} s; Ctrl-C ends\n")
            show(found, slurm, args.json)
            if not args.watch:
                return 0
            time.sleep(args.watch)
            found = rows(folders, slurm)
    except ValueError as error:
        print(f"slurm.status: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def seconds(text: str) -> float:
    """Returns the value of --watch."""
    value = float(text)
    if not 0.1 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} should be seconds, 0.1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
