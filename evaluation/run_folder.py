"""A pretraining run's folder, read back: its encoder, how it looks at images, and the data it was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augmentations import Center, View
from data import Cifar10, ImageFolder, Pairs, Shapes
from losses import NPairs, SigLIP
from models import Backbone, Bpe, Bytes, Projection, TextTransformer
from training import checkpoint

DataSpec = ImageFolder | Cifar10 | Shapes | Pairs
_PARTS = (
    Backbone,
    TextTransformer,
    Bytes,
    Bpe,
    Projection,
    NPairs,
    SigLIP,
    Center,
    View,
    ImageFolder,
    Cifar10,
    Shapes,
    Pairs,
)
KINDS: dict[str, type] = {kind.__name__: kind for kind in _PARTS}


@dataclass(frozen=True)
class Run:
    """What the evaluation needs of a run."""

    recipe: str
    backbone: Backbone
    view: Center
    data: DataSpec
    data_root: Path | None  # where its latest attempt read the images
    objective: Mapping[str, Any]  # its description: networks and loss
    views: tuple[View, ...]  # the random ones it was trained on


def read_run(folder: Path) -> Run:
    """Returns the run's encoder, view and data from `recipe.json` and `environment.json`.

    Raises:
        ValueError: no such folder, no run, or one written by another version of this project.
    """
    if not folder.is_dir():
        raise ValueError(f"--run {folder}: no such folder")
    record = folder / "recipe.json"
    if not record.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/recipe.json"))
        hint = f"; the folders {', '.join(inside[:5])} in it do" if inside else ""
        raise ValueError(f"--run {folder} holds no run (no recipe.json){hint}")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        described = content["described"]
        objective = described["objective"]
        parts = [objective["encoder"], described["eval_view"], described["data"]]
        backbone, view, data = (rebuild(part) for part in parts)
        views = rebuild(described.get("views", []))
        if not isinstance(backbone, Backbone) or not isinstance(view, Center) or type(data) not in KINDS.values():
            raise ValueError("objective.encoder, eval_view and data should be a Backbone, a Center and a data set")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is no record that this version reads: {type(error).__name__}: {error}") from None
    return Run(str(content.get("recipe", "?")), backbone, view, data, _data_root(folder), objective, views)


def rebuild(described: Any) -> Any:
    """Returns what `training.recipe.describe` described: a specification of {"kind": "Center", "size": 32, ...}.

    Specifications inside it are rebuilt, too, lists become tuples, and anything else is as it was.

    Raises:
        ValueError: a kind that no evaluation knows, or a value that its class refuses. TypeError: other fields.
    """
    if isinstance(described, list):
        return tuple(rebuild(item) for item in described)
    if not isinstance(described, Mapping) or "kind" not in described:
        return described
    kind = described["kind"]
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    return KINDS[kind](**{name: rebuild(value) for name, value in described.items() if name != "kind"})


def weights_of(folder: Path, exported: str) -> tuple[Path, bool]:
    """Returns (the file that holds a run's weights, whether it is a checkpoint).

    It is the one written at the run's end, before that the newest whole checkpoint.

    Args:
        exported: the former's path in the run folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if (folder / exported).is_file():
        return folder / exported, False
    try:
        newest, _ = checkpoint.newest(folder / "checkpoints")
    except checkpoint.CheckpointError as error:
        raise ValueError(str(error)) from None
    if newest is None:
        raise ValueError(f"--run {folder} has neither {exported} nor a whole checkpoint yet")
    return newest, True


def _data_root(folder: Path) -> Path | None:
    """Returns the folder of images that the run's last attempt was given, if its record is there and says so."""
    try:
        latest = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["attempts"][-1]
        root = latest["place"]["data"]
        return Path(latest["folder"], root) if root else None
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def image_folder(root: Path) -> DataSpec:
    """Returns what the folder looks like: CIFAR-10's batches, or train/ with test/ or (ImageNet's name) val/."""
    if any((folder / "batches.meta").is_file() for folder in (root, root / "cifar-10-batches-py")):
        return Cifar10()
    if (root / "test").is_dir() and not (root / "val").is_dir():
        return ImageFolder(test="test")
    return ImageFolder()
