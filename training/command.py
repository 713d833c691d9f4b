"""The command line of a recipe: its knobs (what is learned) and its place (where and how it runs)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tyro

from objectives.base import Precision

from .recipe import Recipe, describe


@dataclass(frozen=True)
class Place:
    """Where and how to run. Nothing here changes what is learned, but for --precision, --views, --resident,
    --compress-gradients, and --chunks of a network with BatchNorm; the record keeps all five."""

    out: Path
    """run folder: made if it is not there, resumed if it holds this run"""
    data: Path | None = None
    """the images: a folder, or what data.pack made of it; pairs: tar shards, a folder or a table (not needed by recipes
    that generate theirs)"""
    stage: str | None = None
    """folder on a disk of the node to copy the shards to first, one copy a node, such as '$SLURM_TMPDIR'; a later start
    finds them there"""
    workers: int = 2
    """processes on each rank that decode and crop; the batches are the same for any number"""
    views: Literal["fast", "reference"] = "fast"
    """who makes the views: fast: workers crop, the device does the rest; reference: Pillow, as runs before that did"""
    resident: bool = False
    """hold the set on the device and cut the views there (CIFAR-10, raw stores); rounds otherwise: another run"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train; auto takes a GPU if there is one"""
    precision: Literal["recipe"] | Precision = "recipe"
    """of the networks, instead of the recipe's; fp64 is for checks of exactness"""
    save_every: int = 500
    """steps between checkpoints; a kill repeats at most that many"""
    keep: int = 2
    """newest checkpoints kept"""
    log_every: int = 10
    """steps between lines of metrics.jsonl; each costs one wait for the device"""
    heatmap_every: int | None = None
    """steps between heatmaps of the fixed probe batch; default: twenty in the run, 0: none"""
    probe_every: int = 0
    """steps between accuracies of an online linear probe and k-NN (online/... in the metrics), which use labels but
    change nothing of the run; 0: none, since each takes forward passes of 15,000 images"""
    evaluate: bool = True
    """probe the encoder at the end, where the recipe does"""
    skip_bad_images: bool = False
    """replace unreadable images by their neighbours and list them in events.jsonl, instead of stopping"""
    wandb: Literal["off", "offline", "online"] = "off"
    """mirror of metrics and heatmaps; metrics.jsonl is always written"""
    wandb_project: str = "ssl-pretraining"
    """wandb project"""
    channels_last: bool = True
    """memory layout of convolutions"""
    compile: bool = False
    """torch.compile the encoder"""
    deterministic: bool = True
    """cuDNN's algorithms by rule, and none that sums in another order each time; off: those that are fastest
    when timed, and a resumed run is the same to rounding only"""
    recompute: bool = False
    """activation checkpointing: recompute each block in backward; exact, less memory, about a third more time"""
    chunks: int = 1
    """parts of a rank's rows, each forwarded twice: the memory of one part; exact, but BatchNorm sees one part only"""
    compress_gradients: bool = False
    """exchange gradients between ranks in bf16: half the bytes, but rounded: another run"""
    timeout_min: float = 1.5
    """minutes after which ranks stop waiting for a silent one, once all have made a step; keep it below the lead of the
    scheduler's signal, which slurm/ sets to two minutes"""

    def check(self) -> None:
        """Refuses values that cannot be; after parsing, since tyro would make a box of what is one line."""
        for name in ("save_every", "keep", "log_every", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} should be at least 1")
        if min(self.workers, self.heatmap_every or 0, self.probe_every) < 0 or self.timeout_min <= 0:
            raise ValueError(
                "--workers, --heatmap-every and --probe-every should not be negative, --timeout-min should be positive"
            )


class Command(NamedTuple):
    """What a command line asks for."""

    knobs: dict[str, Any]
    place: Place
    recipe: Recipe
    described: dict[str, Any]  # the recipe as JSON: what a run folder holds a later start to


def read(function: Callable[..., Recipe], argv: Sequence[str], name: str, summary: str) -> Command:
    """Returns what the command line of the recipe `name` asks for; reads no image and writes nothing.

    Raises:
        ValueError: a value that cannot be. (An unknown flag or a wrong type: SystemExit 2, from tyro.)
    """
    knobs, place = parse(function, argv, prog=f"pretrain.py {name}", description=summary)
    recipe = function(**knobs)
    if place.precision != "recipe":
        recipe = dataclasses.replace(recipe, precision=place.precision)
    described = describe(recipe)
    if place.views == "fast":  # Pillow's views need no word: runs that are older than it had no others
        described["view_execution"] = "resident" if place.resident else "fast"  # crops differ in their last level
    if place.compress_gradients:
        described["gradient_exchange"] = "bf16"
    return Command(knobs, place, recipe, described)


def note_chunks(asked: Command, batch_norm_rows: int | None) -> None:
    """Writes into the description how many rows BatchNorm sees, where --chunks makes them fewer: another run."""
    if batch_norm_rows is not None:
        asked.described["batch_norm_rows"] = batch_norm_rows


def note_store(asked: Command, store: dict[str, Any] | None) -> None:
    """Writes into the description which packed set the images are from, if any: other pixels make another run."""
    if store is not None:
        asked.described["store"] = store


def parse(recipe: Callable, argv: Sequence[str], prog: str, description: str) -> tuple[dict[str, Any], Place]:
    """Returns (the recipe's knobs by name, the place) from the command line.

    tyro prints help, and answers an unknown flag or a wrong type with a suggestion and exit code 2.
    """
    hints = get_type_hints(recipe, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(recipe).parameters.items():
        fields.append((name, _with_help(hints[name]), dataclasses.field(default=parameter.default)))
    knobs_type: Any = dataclasses.make_dataclass("Knobs", fields, frozen=True)
    knobs_type.__doc__ = "What is learned. Another value is another run."
    both = dataclasses.make_dataclass(
        "Arguments",
        [
            ("knobs", Annotated[knobs_type, tyro.conf.arg(name="")]),
            ("place", Annotated[Place, tyro.conf.arg(name="")]),
        ],
    )
    both.__doc__ = description
    arguments: Any = tyro.cli(
        both, args=list(argv), prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,)
    )
    arguments.place.check()
    return {f.name: getattr(arguments.knobs, f.name) for f in dataclasses.fields(knobs_type)}, arguments.place


def _with_help(hint: Any) -> Any:
    """Returns Annotated[type, "meaning; value, source"] as tyro wants its help."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *notes = get_args(hint)
    texts = [note for note in notes if isinstance(note, str)]
    return Annotated[kind, tyro.conf.arg(help=" ".join(texts))]
