"""Quality of four losses on CIFAR-10 within minutes on a CPU: runs what is missing, then prints the table of README.

    python benchmarks/small_cifar10.py --data DIR --out RUNS [--seeds 3] [--jobs 1] [--epochs N]

Every run is `pretrain.py small_cifar10 --loss LOSS --seed SEED` in RUNS/LOSS_SEED, so this can be stopped and started
again. Accuracies are means over pretraining seeds, with the sample standard deviation; a seed's linear accuracy is
itself the mean over three seeds of the probe.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOSSES = ("barlow_twins", "simclr", "vicreg", "sample_correlation")


def main() -> int:
    """Runs and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10, as pretrain.py takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", type=int, default=3, help="pretraining seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread and one worker")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's")
    options = parser.parse_args()

    def run(name: tuple[str, int]) -> int:
        loss, seed = name
        out = options.out / f"{loss}_{seed}"
        flags = ["--loss", loss, "--seed", seed, "--data", options.data, "--out", out, "--workers", 1]
        flags += [] if options.epochs is None else ["--epochs", options.epochs]
        command = [sys.executable, "pretrain.py", "small_cifar10", *map(str, flags)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        options.out.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("a") as log:
            return subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode

    jobs = [(loss, seed) for seed in range(options.seeds) for loss in LOSSES]
    with ThreadPoolExecutor(options.jobs) as pool:
        for (loss, seed), code in zip(jobs, pool.map(run, jobs), strict=True):
            if code:
                print(
                    f"{loss}, seed {seed} ended with {code}: see {options.out / f'{loss}_{seed}.log'}", file=sys.stderr
                )
                return code
    print("\n".join(table(options.out, options.seeds)))
    return 0


def table(runs: Path, seeds: int) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for loss in LOSSES:
        for seed in range(seeds):
            for row in json.loads((runs / f"{loss}_{seed}" / "evaluation.json").read_text())["rows"]:
                name = loss if row["encoder"] == "pretrained" else row["encoder"]
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
