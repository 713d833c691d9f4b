"""Image sets as specifications: a recipe names one, `open` finds it on disk and refuses what is wrong with it."""

from __future__ import annotations

import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from .decode import as_tensor, decode
from .images import read_image
from .store import is_store

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

    def __init__(self, root: Path, classes: tuple[str, ...], paths: np.ndarray, counts: np.ndarray) -> None:
        """Takes the images' paths under the root, (N,) of bytes, class by class, and how many each class has."""
        self.root = root
        self.classes = classes
        self.labels = np.repeat(np.arange(len(classes)), counts)
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """Returns the file's path."""
        return str(self.root / self.path(index))

    def path(self, index: int) -> str:
        """Returns the file's path under the root."""
        return os.fsdecode(bytes(self._paths[index]))

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
    """ROOT/<split>/<class>/<image>, as ImageNet is kept on disk, or what `data.pack` made of it.

    Classes are numbered in the order of their names.

    Args:
        train: folder of the training split under the root.
        test: folder of the test split; ImageNet calls it `val`.
    """

    train: str = "train"
    test: str = "val"

    def open(self, root: Path | None, split: Split) -> ImageSet:
        """Returns the set.

        Raises:
            ValueError: the folder is missing, empty, flat, or a class has no images; a store that is not whole.
        """
        return _open(_existing(root), self.train if split == "train" else self.test)


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10: torchvision's `cifar-10-batches-py`, the folder that holds it, ROOT/{train,test}/<class>/<image>,
    or what `data.pack` made of one of them."""

    def open(self, root: Path | None, split: Split) -> ImageSet:
        """Returns the set: 50,000 training or 10,000 test images of 32 x 32.

        Raises:
            ValueError: neither form is found at the root.
        """
        root = _existing(root)
        for folder in (root / "cifar-10-batches-py", root):
            if (folder / "batches.meta").is_file():
                return _cifar_batches(folder, split)
        if not (root / "train").is_dir() and not is_store(root):
            wanted = "torchvision's batches (cifar-10-batches-py/) nor train/ and test/ with a folder a class"
            raise ValueError(f"--data {root}: neither {wanted}")
        return _open(root, split)


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


def _open(root: Path, split: str) -> ImageSet:
    if is_store(root):
        from .packed import open_packed  # it is made of what pairs are, which know this file

        return open_packed(root, split)
    from .folder import scan

    return scan(root / split)


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
