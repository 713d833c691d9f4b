"""Quality of four losses within minutes on a CPU: runs and evaluates what is missing, then prints README's table.

    python -m benchmarks.small small_cifar10 --data DIR --out RUNS [--seeds 3] [--jobs 1] [--epochs N]
                                             [--views fast reference]
    python -m benchmarks.small small_tiny64 --data DIR --out RUNS ...

A run is `pretrain.py RECIPE --loss LOSS --seed SEED --views VIEWS` in RUNS/LOSS_SEED_VIEWS and then `eval_linear.py
--run` on it, so this can be stopped and started again. The table is that of `python -m evaluation.compare`; below the
runs stand a network at random initialisation and raw pixels, which every encoder should beat.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.compare import group, markdown, pick
from evaluation.recorded import read, values_of

ROOT = Path(__file__).parents[1]
RECIPES = ("small_cifar10", "small_tiny64")
LOSSES = ("barlow_twins", "simclr", "vicreg", "sample_correlation")
VIEWS = ("fast", "reference")
BASELINES = ("random init", "raw pixels")


def main() -> int:
    """Runs and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True, help="the images, as pretrain.py takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", type=int, default=3, help="pretraining seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread and one worker")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=["fast"], help="who makes them")
    options = parser.parse_args()

    jobs = list(itertools.product(range(options.seeds), LOSSES, options.views))
    with ThreadPoolExecutor(options.jobs) as pool:
        for (seed, loss, views), code in zip(jobs, pool.map(lambda job: run(options, *job), jobs), strict=True):
            if code:
                print(f"ended with {code}: see {options.out / f'{loss}_{seed}_{views}.log'}", file=sys.stderr)
                return code
    print("\n".join(table([options.out / f"{loss}_{seed}_{views}" for seed, loss, views in jobs])))
    return 0


def run(options: argparse.Namespace, seed: int, loss: str, views: str) -> int:
    """Pretrains and evaluates what is not there yet; returns the first exit code that is not 0."""
    out = options.out / f"{loss}_{seed}_{views}"
    shared = ["--data", options.data, "--workers", 1]
    flags = ["--loss", loss, "--seed", seed, "--views", views, "--out", out, "--no-evaluate", *shared]
    flags += [] if options.epochs is None else ["--epochs", options.epochs]
    commands = [["pretrain.py", options.recipe, *flags]]
    if not (out / "eval" / "cached.json").is_file():
        commands.append(["eval_linear.py", "--run", out, "--random-baseline", *shared])
    options.out.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("a") as log:
        for command in commands:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                check=False,
            )
            if done.returncode:
                return done.returncode
    return 0


def table(runs: Sequence[Path]) -> Iterator[str]:
    """Yields the lines of a Markdown table: a row a loss, then what any encoder should beat, from the first run."""
    *rows, empty, legend = markdown(pick(values_of(read(runs), "pretrained"), ()), group(read(runs)))
    yield from rows
    for encoder in BASELINES:
        first = read(runs[:1])
        row = markdown(pick(values_of(first, encoder), ()), group(first))[2]
        yield f"| {encoder} |" + row.split("|", 2)[2]
    yield from (empty, legend)


if __name__ == "__main__":
    sys.exit(main())
