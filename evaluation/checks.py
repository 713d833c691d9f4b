"""What of two splits no evaluation can use: found before an image is read."""

from __future__ import annotations

import numpy as np

from data import ImageSet

from . import knn
from .protocols import Protocol

SHOWN = 5  # names in a message


def check_sets(train_set: ImageSet, test_set: ImageSet, protocol: Protocol, k: int, temperature: float) -> None:
    """Refuses what no evaluation can use; reads no image, and no label of the test split.

    Raises:
        ValueError: as `check_classes`, one image a class where the protocol holds some out, or k-NN's k or temperature
            does not fit.
    """
    check_classes(train_set, test_set)
    if protocol.holdout and np.bincount(train_set.labels).max() < 2:
        raise ValueError(
            f"each class has one training image, and protocol {protocol.id} chooses its learning rate on held-out "
            "ones: give two images of some class, or take a protocol that chooses nothing, such as bt-100ep"
        )
    knn.check(k, temperature, len(train_set))


def check_classes(train_set: ImageSet, test_set: ImageSet) -> None:
    """Refuses splits of which one is empty or which have not the same classes.

    Raises:
        ValueError: naming them; or a training label that is none of the classes'.
    """
    for where, images in (("train", train_set), ("test", test_set)):
        if len(images) == 0:
            raise ValueError(f"the {where} split has no images: give a folder with some in every class")
    if train_set.classes != test_set.classes:
        found = "; ".join(
            f"{len(names)} only in {where} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
            for where, names in (
                ("train", [name for name in train_set.classes if name not in set(test_set.classes)]),
                ("test", [name for name in test_set.classes if name not in set(train_set.classes)]),
            )
            if names
        )
        raise ValueError(f"the classes of train and test differ: {found or 'the same names in another order'}")
    check_labels("train", train_set)


def check_labels(where: str, images: ImageSet) -> None:
    """Raises:
    ValueError: a label that is none of the classes', so that no head can answer it.
    """
    labels, num_classes = np.asarray(images.labels), len(images.classes)
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{len(outside)} labels of the {where} split are not in 0 .. {num_classes - 1}, the head's classes: "
            f"{labels[first]} of {images.name(first)} is the first; the labels or the list of classes is wrong"
        )
