"""Transfer: the same frozen encoders on further sets of images, with heads of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import ImageSet

from .checks import check_sets
from .flags import Method
from .protocols import Protocol
from .run_folder import image_folder


@dataclass(frozen=True)
class Transfer:
    """Images to train heads on and to test them on; rows of the table call it `name`."""

    name: str
    folder: Path
    train_set: ImageSet
    test_set: ImageSet

    def __str__(self) -> str:
        """Returns a line to print."""
        sizes = f"{len(self.train_set)} train, {len(self.test_set)} test images"
        return f"transfer {self.name}: {sizes}, {len(self.train_set.classes)} classes: {self.folder}"

    def facts(self) -> dict[str, Any]:
        """Returns what a result keeps of it."""
        num = {"num_train": len(self.train_set), "num_test": len(self.test_set)}
        return {"name": self.name, "folder": str(self.folder), **num, "classes": self.train_set.classes}


def open_transfers(folders: tuple[Path, ...], protocol: Protocol, method: Method) -> list[Transfer]:
    """Returns the sets of --transfer, in the order given.

    Raises:
        ValueError: naming the folder: it is missing, holds no images as --data takes them, or too few for the protocol
            or k-NN; or two have the same name.
    """
    found: list[Transfer] = []
    for folder in folders:
        if folder.name in [transfer.name for transfer in found]:
            raise ValueError(f"--transfer {folder}: two sets are called {folder.name}: rename one")
        spec = image_folder(folder)
        try:
            train_set, test_set = spec.open(folder, "train"), spec.open(folder, "test")
            check_sets(train_set, test_set, protocol, method.knn_k, method.knn_temperature)
        except ValueError as error:
            raise ValueError(
                f"--transfer {folder}: {str(error).removeprefix('--data ').removeprefix('--data: ')}"
            ) from None
        found.append(Transfer(folder.name, folder, train_set, test_set))
    return found
