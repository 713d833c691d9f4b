"""Which classes a classifier takes for which: the matrix, an order in which confused classes are neighbours, the worst.

Classes without a test image have a row of zeros everywhere here, and are never listed.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Confusion(NamedTuple):
    """`num` of the `of` images of class `label` are taken for class `taken_for`."""

    label: int
    taken_for: int
    num: int
    of: int

    @property
    def share(self) -> float:
        """Returns the share of the class' images, 0..1."""
        return self.num / self.of


def counts(labels: Tensor, predicted: Tensor, num_classes: int) -> NDArray[np.int64]:
    """Returns the confusion matrix (C, C): how many images of class i, the row, are taken for class j, the column.

    Args:
        labels, predicted: (M,) in 0 .. num_classes - 1.
    """
    pairs = labels.cpu().long() * num_classes + predicted.cpu().long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).numpy()


def shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the matrix with each row divided by its sum: shares of a class' images, in 0..1."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def worst(matrix: NDArray[np.int64], most: int) -> list[Confusion]:
    """Returns the confusions of the largest share of a class, at most `most`; of equal ones the more images first."""
    off, of = matrix.copy(), matrix.sum(axis=1)
    np.fill_diagonal(off, 0)
    rows, columns = off.nonzero()
    num = off[rows, columns]
    best = np.lexsort((columns, rows, -num, -num / of[rows]))[:most]
    return [Confusion(int(rows[k]), int(columns[k]), int(num[k]), int(of[rows[k]])) for k in best]


def hardest(matrix: NDArray[np.int64], most: int) -> list[Confusion]:
    """Returns the classes that are least often right, each with its own class as `taken_for`, at most `most`."""
    of, right = matrix.sum(axis=1), matrix.diagonal()
    share = np.where(of > 0, right / np.maximum(of, 1), 2.0)
    best = np.argsort(share, kind="stable")[: min(most, int((of > 0).sum()))]
    return [Confusion(int(k), int(k), int(right[k]), int(of[k])) for k in best]


def block_order(matrix: NDArray[np.int64]) -> list[int]:
    """Returns the classes in an order in which those that are taken for each other stand together.

    Average-linkage clustering of how often two classes are confused, in either direction; of two groups that join, each
    is turned so that its end and the other's beginning are the most alike. A function of the matrix alone.
    """
    share = shares(matrix)
    between = share + share.T
    np.fill_diagonal(between, -1)
    alike, size = between.copy(), np.ones(len(matrix))
    groups: dict[int, list[int]] = {i: [i] for i in range(len(matrix))}
    while len(groups) > 1:
        a, b = sorted(divmod(int(alike.argmax()), len(alike)))
        groups[a] = _joined(groups[a], groups.pop(b), between)
        alike[a] = alike[:, a] = (size[a] * alike[a] + size[b] * alike[b]) / (size[a] + size[b])
        alike[b] = alike[:, b] = alike[a, a] = -1  # below every share: none is chosen again
        size[a] += size[b]
    return next(iter(groups.values()))


def _joined(first: list[int], second: list[int], between: NDArray[np.float64]) -> list[int]:
    ways = [(x, y) for x in (first, first[::-1]) for y in (second, second[::-1])]
    x, y = max(ways, key=lambda way: between[way[0][-1], way[1][0]])
    return x + y
