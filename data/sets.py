"""Image sets as specifications: a recipe names one, `open` finds it on disk and refuses what is wrong with it."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from .decode import as_tensor, decode
from .images import read_image

Split = Literal["train", "test"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")


class ImageSet(Protocol):
    """Labelled images, by position."""

    classes: tuple[str, ...]
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Returns the image as 8-bit RGB. Raises BadImage."""
        ...

    def pixels(self, index: int) -> Tensor:
        """Returns the same image as uint8 (3, H, W), decoded the fastest way. Raises BadImage."""
        ...

    def name(self, index: int) -> str:
        """Returns what errors call the sample: its path."""
        ...


@runtime_checkable
class Captioned(Protocol):
    """Images with captions, by position: an `ImageSet` that also has these."""

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the image's captions, at least one."""
        ...


class Files:
    """Image files on disk, one folder a class. Paths are one array of bytes, so that forked workers share them."""

    def __init__(self, root: Path, classes: tuple[str, ...], paths: list[str], labels: list[int]) -> None:
        self.root = root
        self.classes = classes
        self.labels = np.asarray(labels, dtype=np.int64)
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """Returns the file's path."""
        return str(self.root / os.fsdecode(bytes(self._paths[index])))

    def image(self, index: int) -> Image.Image:
        """Returns the decoded file."""
        return read_image(Path(self.name(index)))

    def pixels(self, index: int) -> Tensor:
        """Returns the decoded file, uint8 (3, H, W)."""
        return decode(Path(self.name(index)))


class Pixels:
    """Images in memory: `array` (N, H, W, 3) uint8."""

    def __init__(self, root: Path, classes: tuple[str, ...], array: np.ndarray, labels: np.ndarray) -> None:
        self.root, self.classes, self.array = root, classes, array
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        """Returns the batch files' folder and the position in it."""
        return f"{self.root}[{index}]"

    def image(self, index: int) -> Image.Image:
        """Returns the image."""
        return Image.fromarray(self.array[index])

    def pixels(self, index: int) -> Tensor:
        """Returns the image, uint8 (3, H, W)."""
        return as_tensor(self.array[index])


@dataclass(frozen=True)
class ImageFolder:
    """ROOT/<split>/<class>/<image>, as ImageNet is kept on disk; classes are numbered in the order of their names.

    Args:
        train: folder of the training split under the root.
        test: folder of the test split; ImageNet calls it `val`.
    """

    train: str = "train"
    test: str = "val"

    def open(self, root: Path | None, split: Split) -> ImageSet:
        """Returns the set.

        Raises:
            ValueError: the folder is missing, empty, flat, or a class has no images.
        """
        root = _existing(root)
        return scan(root / (self.train if split == "train" else self.test))


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: torchvision's `cifar-10-batches-py`, the folder that holds it, or ROOT/{train,test}/<class>/<image>."""

    def open(self, root: Path | None, split: Split) -> ImageSet:
        """Returns the set: 50,000 training or 10,000 test images of 32 x 32.

        Raises:
            ValueError: neither form is found at the root.
        """
        root = _existing(root)
        for folder in (root / "cifar-10-batches-py", root):
            if (folder / "batches.meta").is_file():
                return _cifar_batches(folder, split)
        if not (root / "train").is_dir():
            wanted = "torchvision's batches (cifar-10-batches-py/) nor train/ and test/ with a folder a class"
            raise ValueError(f"--data {root}: neither {wanted}")
        return scan(root / split)


@dataclass(frozen=True)
class Shapes:
    """The generated set of `data/shapes.py`: needs no files.

    Args:
        num_train: training images.
        num_test: test images, from another random stream.
        seed: of the generator.
    """

    num_train: int = 4000
    num_test: int = 1000
    seed: int = 0

    def open(self, root: Path | None, split: Split) -> ImageSet:
        """Returns the set, rendered in memory (a few seconds); `root` is not used."""
        from .shapes import ShapesSet

        count = self.num_train if split == "train" else self.num_test
        return ShapesSet("train" if split == "train" else "val", count, self.seed)


def scan(folder: Path) -> Files:
    """Returns the images of `folder/<class>/**` in the order of their paths: position i is the same on every machine.

    Raises:
        ValueError: the folder is missing, empty, flat, or a class has no images.
    """
    if not folder.is_dir():
        beside = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        there = f"; {folder.parent} holds {', '.join(beside[:8])}" if beside else ""
        raise ValueError(f"--data: no folder {folder}{there}")
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    if not classes:
        loose = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
        if loose:
            raise ValueError(
                f"--data: {folder} is flat: {loose} images, no class folders. Move each into a folder named after "
                "its class (for ImageNet's val/: the synset folders that the devkit's ground truth lists)"
            )
        raise ValueError(f"--data: {folder} is empty: it should hold a folder a class, each with images")
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted((str(path.relative_to(folder)) for path in _images(folder / name)), key=os.fsencode)
        if not images:
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"--data: class {folder / name} has no images ({kinds}): remove it or fill it")
        paths += images
        labels += [label] * len(images)
    return Files(folder, classes, paths, labels)


def _images(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images(Path(entry.path))
            elif entry.name.lower().endswith(SUFFIXES):
                yield Path(entry.path)


def _existing(root: Path | None) -> Path:
    if root is None:
        raise ValueError("--data is missing: name the folder that holds the images")
    if not root.is_dir():
        if root.is_file() and tarfile.is_tarfile(root):
            raise ValueError(f"--data {root} is an archive: unpack it first (tar -xf) and name the folder")
        raise ValueError(f"--data {root}: no such folder")
    return root


def _cifar_batches(folder: Path, split: Split) -> Pixels:
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"--data {folder}: {', '.join(missing)} missing from CIFAR-10's batches")
    batches = [_unpickle(folder / name) for name in names]
    meta = _unpickle(folder / "batches.meta")
    pixels = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
    labels = np.concatenate([np.asarray(batch["labels"]) for batch in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Pixels(folder, tuple(meta["label_names"]), images, labels)


class _Numbers(pickle.Unpickler):
    """CIFAR-10 is published as pickles: only what an array needs may be named in them, so a file cannot run code."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> object:
        module = module.replace("numpy.core", "numpy._core")  # its name before numpy 2
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}, which image batches do not need")


def _unpickle(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            return _Numbers(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError) as error:
        raise ValueError(f"--data {path}: not a CIFAR-10 batch: {error}") from None
