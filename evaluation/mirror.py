"""A result mirrored to wandb: its numbers and its pictures. The JSON file is the record; wandb can neither stop nor
change it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diagnostics.wandb_mirror import WandbMirror
from training.recipe import describe

from .flags import Arguments
from .results import Part
from .table import Row, label


def mirror(part: Part, rows: Sequence[Row], pictures: Mapping[str, Path], args: Arguments) -> None:
    """Hands a result to wandb and waits for the upload, at most half a minute; what fails is said in a line.

    A metric is called "<encoder>/<metric>", its value is the mean over seeds. wandb's files lie in the folder of the
    pictures, whose kept id makes the same evaluation, run again, the same wandb run.
    """
    if args.shown.wandb == "off":
        return
    folder, subject = part.folder, args.subject.run or args.subject.weights
    config = {"protocol": describe(part.protocol), **{name: describe(fact) for name, fact in part.facts.items()}}
    numbers = {f"{label(row)}/{name}": metric.mean for row in rows for name, metric in row.metrics.items()}
    numbers |= {f"{label(row)}/{name}": value for row in rows for name, value in row.diagnostics.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{Path(subject or '').name} {part.protocol['id']}"
        wandb = WandbMirror(folder, args.shown.wandb, config, name, args.shown.wandb_project)
    except OSError as error:
        print(f"wandb: {folder}: {error.strerror or error}; the result is written without", file=sys.stderr, flush=True)
        return
    wandb.metrics(0, numbers)
    wandb.images(0, pictures)
    wandb.finish(0)
