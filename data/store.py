"""What `store.json` says of a packed set: its pictures' form, its splits, their shards, and the name of it all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

NAME = "store.json"
FORMAT = 1
AGAIN = "run the same python -m data.pack again, it goes on where it stopped"

Kind = Literal["jpeg", "raw"]


@dataclass(frozen=True)
class Shard:
    """A tar of the store."""

    file: str  # under the store's folder
    samples: int
    bytes: int
    sha256: str
    stop: int  # position in the source after its last sample


@dataclass(frozen=True)
class Packing:
    """One split."""

    classes: tuple[str, ...]
    labels: tuple[tuple[int, int], ...] = ()  # (label, how many samples one after another have it); () until it is done
    shards: tuple[Shard, ...] = ()

    def __len__(self) -> int:
        return sum(shard.samples for shard in self.shards)

    def label(self) -> np.ndarray:
        """Returns every sample's label, (N,) int64."""
        runs = np.array(self.labels, dtype=np.int64).reshape(-1, 2)
        return np.repeat(runs[:, 0], runs[:, 1])


@dataclass(frozen=True)
class Store:
    """A packed set.

    Args:
        kind: jpeg, or raw pixels.
        options: that decided its bytes.
        source: what it was made from: its path, and a digest of its images' names.
        made_with: versions that its bytes may depend on.
        splits: by name.
        skipped: images of the source that could not be read: split, position there, message.
        id: a digest of all that is in it; "" until it is whole.
    """

    kind: Kind
    options: dict[str, Any]
    source: dict[str, str]
    made_with: dict[str, str]
    splits: dict[str, Packing]
    skipped: tuple[tuple[str, int, str], ...] = ()
    id: str = ""
    format: int = FORMAT

    def whole(self) -> Store:
        """Returns this store with its id: equal for equal samples, labels and shards, wherever they came from."""
        named = [
            [name, split.classes, split.labels, [(shard.file, shard.sha256) for shard in split.shards]]
            for name, split in self.splits.items()
        ]
        content = json.dumps([self.format, self.kind, named], sort_keys=True)
        return dataclasses.replace(self, id=hashlib.sha256(content.encode()).hexdigest()[:16])

    def described(self) -> dict[str, Any]:
        """Returns what a run's record keeps of it."""
        return {"id": self.id, "kind": self.kind, **self.options}


def is_store(root: Path) -> bool:
    """Returns whether a folder is what `data.pack` made, or began to."""
    return (root / NAME).is_file()


def read_store(root: Path) -> Store:
    """Returns the store in a folder, whole or not. Raises ValueError where its store.json cannot be read."""
    path = root / NAME
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != FORMAT:
            raise ValueError(f"its format {held['format']} is not {FORMAT}, which this version reads")
        for split in held["splits"].values():
            split["shards"] = tuple(Shard(**shard) for shard in split["shards"])
            split["labels"] = tuple(map(tuple, split["labels"]))
            split["classes"] = tuple(split["classes"])
        held["splits"] = {name: Packing(**split) for name, split in held["splits"].items()}
        held["skipped"] = tuple(map(tuple, held["skipped"]))
        return Store(**held)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Pack the images again into another folder") from None


def wrong_with(root: Path, shard: Shard) -> str | None:
    """Returns what is wrong with a shard's file at a glance, or None: not there, or of another size."""
    path = root / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None if size == shard.bytes else f"{path}: {size} bytes, {NAME} says {shard.bytes}"
