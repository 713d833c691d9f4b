"""A part of the training images, for low-shot evaluation: a published list, or as many of every class, and its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data import ImageSet
from data.order import epoch_order
from data.packed import store_of

from .flags import Images

# `digest` of the lists in imagenet_subsets/ of google-research/simclr at 383d414: 12,811 and 128,116 images.
SIMCLR = {
    "6581e723dbf23ae41ebd1d66d0b3c1c0eb8865d5abfa906987f6563513f4b9b8": 1,
    "220f3e2f6dba9d26ec247224cbbf4f3581cbf7fe341e08b191ee0855ad19af56": 10,
}
SHOWN = 3  # names in a message


class Subset:
    """Some images of a set: an `ImageSet` itself."""

    def __init__(self, images: ImageSet, rows: np.ndarray) -> None:
        """Takes the whole set and positions in it, (n,) int64."""
        self.images, self.rows = images, rows
        self.classes: tuple[str, ...] = images.classes
        self.labels: np.ndarray = images.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Image.Image:
        """Returns the image as 8-bit RGB. Raises BadImage."""
        return self.images.image(int(self.rows[index]))

    def pixels(self, index: int) -> Tensor:
        """Returns the image as uint8 (3, H, W). Raises BadImage."""
        return self.images.pixels(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Returns what errors call the sample."""
        return self.images.name(int(self.rows[index]))


@dataclass(frozen=True)
class Balanced:
    """As many images of every class: `percent` of the set in all, at least one a class.

    The images of every class are put into a random order, always the same. Then the first of every class are taken, the
    second of every class, and so on: so 1 % is a part of 10 %, no class has more than one image more than another, and
    a class that is used up leaves its share to the others.
    """

    percent: int

    @property
    def id(self) -> str:
        """Returns "1pct-balanced", the part of a protocol's name: a "%" in file names would be an escape in links."""
        return f"{self.percent}pct-balanced"

    def take(self, images: ImageSet) -> Subset:
        """Returns the images: a function of the labels alone, so the same in a folder and in what was packed of it."""
        labels = images.labels
        shuffled = epoch_order(seed=0, epoch=0, num_samples=len(labels))  # the same with any version of any library
        of_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        counts = np.bincount(labels, minlength=len(images.classes))
        place = np.arange(len(labels)) - np.repeat(counts.cumsum() - counts, counts)  # in the order of its class
        num = max(int((counts > 0).sum()), len(labels) * self.percent // 100)
        return Subset(images, np.sort(of_class[np.argsort(place, kind="stable")[:num]]))


@dataclass(frozen=True)
class Listed:
    """The images that a file names, one a line.

    file: the list.
    sha256: `digest` of its names.
    """

    file: str
    sha256: str

    @property
    def percent(self) -> int | None:
        """Returns which of SimCLR's lists it is, 1 or 10, or None: another list."""
        return SIMCLR.get(self.sha256)

    @property
    def id(self) -> str:
        """Returns "1pct-simclr" for a published list, else "list-" and the start of its digest."""
        return f"{self.percent}pct-simclr" if self.percent else f"list-{self.sha256[:8]}"

    def take(self, images: ImageSet) -> Subset:
        """Returns the images.

        Raises:
            ValueError: a name that no image of the set has, or several have, or a class without a name.
        """
        names = _names(self.file)
        found: dict[str, list[int]] = {_stem(name): [] for name in names}
        for row in range(len(images)):
            if (stem := _stem(images.name(row))) in found:
                found[stem].append(row)
        rows = [[row for row in found[_stem(name)] if _fits(name, images, row)] for name in names]
        asked = list(zip(names, rows, strict=True))
        of_lines = f"of the {len(names)} lines in {self.file}"
        if absent := [name for name, rows in asked if not rows]:
            raise ValueError(f"{len(absent)} {of_lines} name no image of train{_some(absent)}")
        if several := [name for name, rows in asked if len(rows) > 1]:
            raise ValueError(f"{len(several)} {of_lines} name more than one image{_some(several)}: write CLASS/NAME")
        taken = Subset(images, np.unique([row for (row,) in rows]))
        if len(taken) < len(rows):
            raise ValueError(f"{len(rows) - len(taken)} {of_lines} name an image that an earlier one names")
        counts = np.bincount(taken.labels, minlength=len(images.classes))
        if empty := [name for name, count in zip(images.classes, counts, strict=True) if not count]:
            raise ValueError(f"{self.file} names no image of {len(empty)} classes{_some(empty)}")
        return taken


def subset_of(images: Images) -> Balanced | Listed | None:
    """Returns which part of the training images --subset and --subset-file mean; None: all of them.

    Raises:
        ValueError: the file cannot be read, or is not the published list of that size.
    """
    percent = int(images.subset.rstrip("%")) if images.subset else None
    if images.subset_file is None:
        return Balanced(percent) if percent else None
    listed = Listed(str(images.subset_file), digest(_names(str(images.subset_file))))
    if percent and listed.percent != percent:
        what = f"SimCLR's list of {listed.percent} %" if listed.percent else f"not SimCLR's list of {percent} %"
        raise ValueError(
            f"--subset {percent}%: {listed.file} is {what} (docs/low-shot.md has their checksums): leave --subset out "
            "for a list of your own"
        )
    return listed


def part_of(images: ImageSet, subset: Balanced | Listed | None) -> ImageSet:
    """Returns the part of the training images, or all of them.

    Raises:
        ValueError: a list that does not fit the images.
    """
    return subset.take(images) if subset else images


def digest(names: Iterable[str]) -> str:
    """Returns the sha256, 64 hex digits, of the names in order, one a line: their order in a file plays no part."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def described(subset: Balanced | Listed, taken: ImageSet) -> dict[str, object]:
    """Returns what a result keeps of its subset: which, how many images, and the digest of their names."""
    names = (taken.name(row).rpartition("/")[2] for row in range(len(taken)))
    return {"id": subset.id, "num_images": len(taken), "sha256_of_names": digest(names)}


def facts_of_sets(whole: ImageSet, subset: Balanced | Listed | None, taken: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Returns what a result keeps of its images: store, subset, sizes and classes.

    Args:
        whole: all training images. taken: those that `subset` means. test: the test split.
    """
    return {
        "store": store_of(whole),
        "subset": described(subset, taken) if subset else None,
        "num_train": len(taken),
        "num_test": len(test),
        "classes": taken.classes,
    }


def _names(file: str) -> list[str]:
    try:
        names = Path(file).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ValueError(f"--subset-file {file}: {reason}") from None
    if not (names := [name.strip() for name in names if name.strip()]):
        raise ValueError(f"--subset-file {file} names no image: it should hold a file name a line")
    return names


def _stem(name: str) -> str:
    """Returns a name without folder and suffix: resized copies and `data.pack` change the suffix."""
    file = name.rpartition("/")[2]
    return file.rpartition(".")[0] or file


def _fits(name: str, images: ImageSet, row: int) -> bool:
    """Returns whether a line's folder, if it has one, is the image's class."""
    folder = name.rpartition("/")[0].rpartition("/")[2]
    return not folder or folder == images.classes[images.labels[row]]


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
