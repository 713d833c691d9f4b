"""What `data.pack` reads: the splits of a tree of images, or CIFAR-10's batches."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .folder import scan
from .sets import SUFFIXES, Cifar10, Files, ImageSet
from .store import is_store


def find_splits(source: Path, names: list[str] | None) -> dict[str, ImageSet]:
    """Returns the splits to pack, by name.

    Args:
        source: a folder of splits, each with a folder a class; one such split; or CIFAR-10's batches.
        names: of the splits, where not all of them are wanted; or what a source that is itself a split is called.

    Raises:
        ValueError: nothing of that kind, a split that is not there, or one that `scan` refuses.
    """
    if not source.is_dir():
        raise ValueError(f"SRC {source}: no such folder")
    if is_store(source):
        raise ValueError(f"SRC {source} is packed already: pack the originals, a second resize would blur twice")
    if any((folder / "batches.meta").is_file() for folder in (source, source / "cifar-10-batches-py")):
        wrong = set(names or ()) - {"train", "test"}
        if wrong:
            raise ValueError(f"--splits {' '.join(sorted(wrong))}: CIFAR-10's batches hold train and test")
        return {
            name: Cifar10().open(source, "train" if name == "train" else "test") for name in names or ("train", "test")
        }
    folders = {path.name: path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not folders:
        raise ValueError(f"SRC {source}: no folders: it should hold a folder a split, or a folder a class")
    if names and set(names) <= set(folders):
        return {name: scan(folders[name]) for name in names}
    direct = [name for name, path in folders.items() if _holds_images(path)]
    if len(direct) == len(folders) and "train" not in folders:  # its folders are classes; else `scan` says: flat
        if names and len(names) > 1:
            raise ValueError(
                f"--splits {' '.join(names)}: {source} is one split: its folders hold images, name it once"
            )
        return {names[0] if names else source.absolute().name: scan(source)}
    if names:
        raise ValueError(f"--splits {' '.join(names)}: {source} holds {', '.join(folders)}")
    if 0 < len(direct) < len(folders):
        other = next(name for name in folders if name not in direct)
        raise ValueError(
            f"SRC {source}: {direct[0]} holds images and {other} does not: are they classes, or splits of which one is "
            "flat? Name the splits to pack: --splits train val"
        )
    return {name: scan(path) for name, path in folders.items()}


def digest_of(splits: dict[str, ImageSet]) -> str:
    """Returns a digest of the images' names and labels: whether a source is still the one that packing began with."""
    digest = hashlib.sha256()
    for name, images in splits.items():
        digest.update(f"{name}\n{len(images)}\n".encode())
        digest.update(images.labels.tobytes())
        if isinstance(images, Files):
            for index in range(len(images)):
                digest.update(os.fsencode(images.path(index)) + b"\n")
    return digest.hexdigest()[:16]


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) for entry in entries)
