"""Quality of four losses on CIFAR-10 within minutes on a CPU: runs what is missing, then prints the table of README.

    python benchmarks/small_cifar10.py --data DIR --out RUNS [--seeds 3] [--jobs 1] [--epochs N]
                                       [--views fast reference]

Every run is `pretrain.py small_cifar10 --loss LOSS --seed SEED --views VIEWS` in RUNS/LOSS_SEED_VIEWS, so this can be
stopped and started again. With both kinds of views the table has rows for both: the difference between them is to be
seen beside the spread over seeds. Accuracies are means over pretraining seeds, with the sample standard deviation; a
seed's linear accuracy is itself the mean over three seeds of the probe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOSSES = ("barlow_twins", "simclr", "vicreg", "sample_correlation")
VIEWS = ("fast", "reference")


def main() -> int:
    """Runs and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10, as pretrain.py takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", type=int, default=3, help="pretraining seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread and one worker")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=["fast"], help="who makes them")
    options = parser.parse_args()

    def run(name: tuple[str, int, str]) -> int:
        loss, seed, views = name
        out = options.out / f"{loss}_{seed}_{views}"
        flags = ["--loss", loss, "--seed", seed, "--views", views, "--data", options.data, "--out", out, "--workers", 1]
        flags += [] if options.epochs is None else ["--epochs", options.epochs]
        command = [sys.executable, "pretrain.py", "small_cifar10", *map(str, flags)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        options.out.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("a") as log:
            return subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode

    jobs = [(loss, seed, views) for seed in range(options.seeds) for loss in LOSSES for views in options.views]
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, code in zip(jobs, pool.map(run, jobs), strict=True):
            if code:
                log = "_".join(map(str, name)) + ".log"
                print(f"ended with {code}: see {options.out / log}", file=sys.stderr)
                return code
    print("\n".join(table(options.out, options.seeds, options.views)))
    return 0


def table(runs: Path, seeds: int, kinds: Sequence[str]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for loss, views in itertools.product(LOSSES, kinds):
        for seed in range(seeds):
            for row in json.loads((runs / f"{loss}_{seed}_{views}" / "evaluation.json").read_text())["rows"]:
                pretrained = f"{loss}, {views} views" if len(kinds) > 1 else loss
                name = pretrained if row["encoder"] == "pretrained" else row["encoder"]
                for metric, value in row["metrics"].items():
                    # by seed: the random encoder of a seed is the same in every loss's run
                    found.setdefault(name, {}).setdefault(metric, {})[seed] = value["mean"]
    metrics = list(next(iter(found.values())))
    yield "| encoder | n | " + " | ".join(metrics) + " |"
    yield "|---|---|" + "---|" * len(metrics)
    for name, values in found.items():
        cells = [spread(list(values[metric].values())) for metric in metrics]
        yield f"| {name} | {seeds} | " + " | ".join(cells) + " |"


def spread(values: list[float]) -> str:
    """Returns "47.1 ± 0.3", or the value alone if there is one."""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


if __name__ == "__main__":
    sys.exit(main())
