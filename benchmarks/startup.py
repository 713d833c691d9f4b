"""How long it takes to start: the help of a recipe, and the first batch.

    python -m benchmarks.startup [--data DIR] [--recipe barlow_twins_rn50] [--repeats 5] [--json FILE]

Help: wall and processor time of `pretrain.py RECIPE --help` over those of `python -c "import torch"`, alternating.
First batch: pretrain.py's own seconds from the end of its imports (timm's among them, which it makes later) until the
loop has its first batch, and of that the input path's: images found, workers started, batch made. The rest draws the
networks and opens the run folder. One start before is not measured: it leaves lists of images behind for the
others. Without --data, JPEGs of ImageNet's usual sizes are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import loop
from benchmarks.generated import make_images
from benchmarks.losses import ROOT

IMPORT, HELP = "import torch", "--help"


def taken(command: list[str]) -> tuple[float, float]:
    """Returns (wall, processor) seconds of a process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def help_ratios(recipe: str, repeats: int) -> dict[str, list[float]]:
    """Returns --help / import torch of each repeat, by the wall clock and in processor time."""
    commands = {
        IMPORT: [sys.executable, "-c", "import torch"],
        HELP: [sys.executable, "pretrain.py", recipe, "--help"],
    }
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    for repeat in range(repeats + 1):
        found = {name: taken(commands[name]) for name in sorted(commands, reverse=bool(repeat % 2))}
        if repeat:  # the first reads the files from the disk
            for kind, which in (("wall", 0), ("cpu", 1)):
                ratios[kind].append(found[HELP][which] / found[IMPORT][which])
    return ratios


def first_batch(command: list[str], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds until the first batch of each repeat, each a process of its own."""
    found: dict[str, list[float]] = {"all": [], "input": []}
    for repeat in range(repeats + 1):
        asked = [sys.executable, "-m", "benchmarks.startup", "--start", *command]
        answer = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        if repeat:
            for kind, seconds in zip(found, json.loads(answer.stdout), strict=True):
                found[kind].append(seconds)
    return found


def start(command: list[str]) -> tuple[float, float]:
    """Returns the seconds from pretrain.py's imports to its first batch, and those of the input path alone."""
    import timm.models  # noqa: F401  (an import like the others, not part of what is measured)

    found = loop.run(command, steps=0)
    return found.start_s, found.input_s


def line(what: str, values: list[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"| {what} | {middle:.2f} | {low:.2f} to {high:.2f} | {len(values)} |"


def main(arguments: list[str]) -> dict[str, Any] | None:
    """Prints the table; returns it."""
    if arguments and arguments[0] == "--start":
        print(json.dumps(start(arguments[1:])))
        return None
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="the recipe's images; default: generated JPEGs")
    add("--images", type=int, default=256, help="how many are generated (default %(default)s)")
    add("--recipe", default="barlow_twins_rn50", help="default %(default)s")
    add("--batch-size", type=int, default=32, help="of the first batch (default %(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="default: the machine's cores, %(default)s")
    add("--repeats", type=int, default=5, help="default %(default)s")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            make_images(Path(folder), options.images)
        place = ["--data", str(options.data or folder), "--workers", str(options.workers)]
        command = [options.recipe, *place, "--batch-size", str(options.batch_size)]
        result: dict[str, Any] = {
            **loop.about(options.repeats, cuda=False),
            "recipe": options.recipe,
            "batch_size": options.batch_size,
            "help": help_ratios(options.recipe, options.repeats),
            "first_batch_s": first_batch(command, options.repeats),
        }
    print("  ".join(f"{name} {result[name]}" for name in ("commit", "torch", "device")))
    print("|  | median | low to high | n |\n|---|---|---|---|")
    print(line(f"{options.recipe} --help / import torch, wall clock", result["help"]["wall"]))
    print(line("the same, processor time", result["help"]["cpu"]))
    rows = f"of {options.batch_size} rows"
    print(line(f"seconds from images asked for to the first batch, {rows}", result["first_batch_s"]["input"]))
    print(
        line("seconds from imports to the first batch: that, networks and run folder", result["first_batch_s"]["all"])
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
