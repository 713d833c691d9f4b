"""Results of eval_linear.py: an evaluation that is ready to run, where its result goes, and how it is written."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from training.atomic import write_json_atomic
from training.recipe import describe, first_difference

from .flags import Arguments
from .published import is_published
from .table import Row, plain_rows

FORMAT = 1
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True)
class Part:
    """One evaluation whose input has been checked.

    out: where its result goes.
    protocol: what the metrics' names stand for.
    facts: what else makes the numbers what they are.
    heading: lines to print before it runs.
    run: returns its rows, and the text to print.
    states: folder of what it needs to go on after a stop; of no use once its result is written.
    draw: once it has run, draws its pictures into a folder and returns them by name.
    """

    out: Path
    protocol: Mapping[str, Any]
    facts: Mapping[str, Any]
    heading: tuple[str, ...]
    run: Callable[[], tuple[list[Row], str]]
    states: Path | None = None
    draw: Callable[[Path], dict[str, Path]] | None = None

    @property
    def folder(self) -> Path:
        """Returns where its pictures go: "cached" beside "cached.json"."""
        return self.out.with_suffix("")


def result_file(args: Arguments, protocol: str, images: Mapping[str, Any]) -> Path:
    """Returns where the result goes; a result on the same `images`, seen the same way, will be replaced.

    Raises:
        ValueError: not a .json file, its folder cannot be made or written, or it holds something else.
    """
    name = f"{protocol}.json"
    run, weights = args.subject.run, args.subject.weights
    if args.place.out is not None:
        out = args.place.out
    elif run is not None:
        out = run / "eval" / name
    else:
        assert weights is not None
        out = Path(f"{weights.replace(':', '-') if is_published(weights) else weights}.{name}")
    if out.suffix != ".json":
        raise ValueError(f"--out {out} should end in .json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: its folder cannot be made: {error.strerror}") from None
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise ValueError(f"{out} cannot be written: name another file with --out")
    if out.exists():
        try:
            old = json.loads(out.read_text(encoding="utf-8"))
            different = first_difference({name: old[name] for name in images}, describe(images))
        except (OSError, ValueError, KeyError, TypeError):
            different = "no result of this script"
        if different:
            raise ValueError(f"{out} holds another result ({different}): name another file with --out")
    return out


def write_result(part: Part, rows: Sequence[Row], **facts: Any) -> None:
    """Writes the numbers and everything that makes them what they are, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is as it was.
    """
    content = {
        "format": FORMAT,
        "command": sys.argv,
        "protocol": describe(part.protocol),
        "rows": plain_rows(rows),
        **{name: describe(fact) for name, fact in {**part.facts, **facts}.items()},
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }
    write_json_atomic(part.out, content)
