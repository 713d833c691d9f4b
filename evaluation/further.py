"""Further test sets of the classes that a head was trained on: ImageNet-V2, -A, -R, ReaL labels, or any of your own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import ImageSet
from data.folder import scan

from .classifier import Classifier
from .flags import Images
from .intervals import Metric

REAL = "ReaL"
SHOWN = 5  # names in a message
_VAL = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")


@dataclass(frozen=True)
class FurtherSet:
    """Labelled images, and how they are counted.

    name: what rows of the table call it.
    images: in any order.
    classes: which of the classes that a head was trained on it may answer here, (K,) rising.
    right: of each image which of them are right; images without any are not counted.
    folder: where they are; "" for those of the test split.
    known: what its classes are found to be, such as "the 200 classes of ImageNet-A"; "" for a set of one's own.
    """

    name: str
    images: ImageSet
    classes: np.ndarray
    right: Sequence[Sequence[int]]
    folder: str = ""
    known: str = ""

    def __str__(self) -> str:
        """Returns a line to print."""
        about = (f", {self.known}" if self.known else "") + (f": {self.folder}" if self.folder else "")
        return f"test {self.name}: {self.num_counted} images, {len(self.classes)} classes{about}"

    @property
    def num_counted(self) -> int:
        """Returns how many images have a right class."""
        return sum(map(bool, self.right))

    def facts(self) -> dict[str, Any]:
        """Returns what a result keeps of it."""
        num = {"num_images": self.num_counted, "num_classes": len(self.classes)}
        return {"name": self.name, "folder": self.folder, **num, "known": self.known}

    def accuracies(self, classifier: Classifier, features: Tensor) -> dict[str, Metric]:
        """Returns {"top1": ..., "top5": ...} of its images' features (M, D); top-5 only where there are more classes.

        An image counts if a right class is the highest, or among the five highest, of the set's classes.
        """
        counted = torch.tensor([row for row, of_image in enumerate(self.right) if of_image])
        most = max(map(len, self.right))
        right = torch.tensor([[*self.right[row], *[-1] * (most - len(self.right[row]))] for row in counted.tolist()])
        top = classifier.top(features[counted], classes=torch.from_numpy(self.classes))  # (S, M, k)
        hit = (top[..., None] == right[:, None]).any(dim=3)
        found = {"top1": Metric.of(hit[..., 0])}
        return found | ({"top5": Metric.of(hit.any(dim=2))} if len(self.classes) > 5 else {})


def further_sets(asked: Images, test_set: ImageSet) -> list[FurtherSet]:
    """Returns the sets of --test and --real, in this order.

    Args:
        test_set: the test split, whose images ReaL labels.

    Raises:
        ValueError: as `open_test_set` and `real_labels`, or two sets of one name.
    """
    sets = [open_test_set(folder, test_set.classes) for folder in asked.test]
    sets += [real_labels(test_set)] if asked.real else []
    names = [further.name for further in sets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} of the sets of --test and --real are called {name}: rename one")
    return sets


def open_test_set(folder: Path, classes: Sequence[str]) -> FurtherSet:
    """Returns the images of `folder/<class>/**`, with the choice among the classes that it has.

    Its classes may be some of those that the head was trained on. Folders that are called by number, as ImageNet-V2's
    are, mean the position in them.

    Raises:
        ValueError: the folder is missing or empty, a class is none of the head's, or the folder is called imagenet-a or
            imagenet-r and has other classes than that set.
    """
    if not folder.is_dir():
        raise ValueError(f"--test {folder}: no such folder")
    images = scan(folder)
    names = list(images.classes)
    if _are_numbers(names) and not _are_numbers(classes):
        outside = [name for name in names if int(name) >= len(classes)]
        positions = [int(name) for name in names]
    else:
        position = {name: place for place, name in enumerate(classes)}
        outside = [name for name in names if name not in position]
        positions = [position.get(name, 0) for name in names]
    if outside:
        raise ValueError(
            f"--test {folder}: {len(outside)} of its {len(names)} classes are not among the {len(classes)} that heads "
            f"are trained on ({_some(outside)})"
        )
    allowed = sorted(positions)
    right = [(positions[label],) for label in images.labels]
    known = _known(folder, [classes[place] for place in allowed])
    return FurtherSet(folder.name, images, np.array(allowed), right, str(folder), known)


def real_labels(images: ImageSet) -> FurtherSet:
    """Returns ImageNet's validation images with the labels of ReaL: any of an image's is right, and some have none.

    Raises:
        ValueError: classes that are no synsets of ImageNet-1k, or names other than ILSVRC2012_val_00000001.JPEG.

    Source: arXiv 2006.07159; the labels are timm's (timm/data/_info/imagenet_real_labels.json).
    """
    synsets = _listed("imagenet_synsets.txt")
    strange = [name for name in images.classes if name not in set(synsets)]
    if strange:
        raise ValueError(f"--real: {len(strange)} test classes are no synsets of ImageNet-1k ({_some(strange)})")
    place = {synset: position for position, synset in enumerate(images.classes)}
    labels = json.loads(_text("imagenet_real_labels.json"))
    right = []
    for row in range(len(images)):
        name = images.name(row).rpartition("/")[2]
        found = _VAL.fullmatch(name)
        if not found or not 1 <= int(found[1]) <= len(labels):
            raise ValueError(
                f"--real: {images.name(row)} is no image of ImageNet's validation set (ILSVRC2012_val_...)"
            )
        of_image = (synsets[label] for label in labels[int(found[1]) - 1])
        right.append(tuple(place[synset] for synset in of_image if synset in place))
    if not any(right):
        raise ValueError("--real: none of the test images has a label")
    return FurtherSet(REAL, images, np.arange(len(images.classes)), right)


def _known(folder: Path, synsets: list[str]) -> str:
    """Returns which published set has these classes. Raises ValueError where the folder's name says another one."""
    for letter in "ar":
        expected = _listed(f"imagenet_{letter}_synsets.txt")
        if synsets == expected:
            return f"the {len(expected)} classes of ImageNet-{letter.upper()}"
        if re.fullmatch(f"imagenet[-_]{letter}", folder.name, re.IGNORECASE):
            missing = [name for name in expected if name not in synsets]
            more = [name for name in synsets if name not in expected]
            found = "; ".join(
                f"{len(names)} {what} ({_some(names)})"
                for names, what in ((missing, "missing"), (more, "too many"))
                if names
            )
            raise ValueError(f"--test {folder}: not the classes of ImageNet-{letter.upper()}: {found}")
    return "all classes of ImageNet-1k" if synsets == _listed("imagenet_synsets.txt") else ""


@cache
def _listed(name: str) -> list[str]:
    return _text(name).split()


def _text(name: str) -> str:
    return (resources.files("timm.data") / "_info" / name).read_text(encoding="utf-8")


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
