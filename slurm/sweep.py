"""The runs that one command asks for: one, or a member for each seed and each value of a knob."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNFIT = re.compile(r"[^A-Za-z0-9._=-]")  # for a folder's name


@dataclass(frozen=True)
class Member:
    """One run: its folder, and the arguments of pretrain.py."""

    run: Path
    arguments: tuple[str, ...]


def expand(
    recipe: str, out: Path, sweeps: Sequence[str], seeds: int | None, flags: Sequence[str], given: Sequence[str]
) -> list[Member]:
    """Returns the runs, each with a folder of its own: `out`, or `out/lambd=0.01,seed=2`.

    Args:
        sweeps: "KNOB=A,B,...": all combinations.
        seeds: members with seed 0 to seeds - 1.
        flags: of pretrain.py, for every member.
        given: the flags among them that the user gave: no sweep may name them too.

    Raises:
        ValueError: a sweep of another form, a knob named twice, or two members with one folder.
    """
    if "%" in str(out):
        raise ValueError(f"--out {out}: Slurm would replace the % in it; take another name")
    axes = [_axis(text) for text in sweeps]
    if seeds is not None:
        if seeds < 1:
            raise ValueError(f"--seeds {seeds} should be at least 1")
        axes.append(("seed", [str(seed) for seed in range(seeds)]))
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1 or f"--{name}" in {word.partition("=")[0].replace("_", "-") for word in given}:
            raise ValueError(f"--{name} is given twice: by --sweep or --seeds and once more")
    members = []
    for values in itertools.product(*(values for _, values in axes)):
        chosen = list(zip(names, values, strict=True))
        folder = ",".join(UNFIT.sub("_", f"{name}={value}") for name, value in chosen)
        run = out / folder if folder else out
        knobs = [word for name, value in chosen for word in (f"--{name}", value)]
        members.append(Member(run, (recipe, "--out", str(run), *flags, *knobs)))
    if len({member.run for member in members}) < len(members):
        raise ValueError("a sweep has the same value twice: each member needs a folder of its own")
    return members


def _axis(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    name = name.removeprefix("--").replace("_", "-")
    if not equals or not name or not all(values.split(",")):
        raise ValueError(f"--sweep {text!r} is not of the form KNOB=A,B,..., such as lambd=0.003,0.005")
    return name, values.split(",")
