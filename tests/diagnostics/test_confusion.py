import numpy as np
import pytest
import torch

from diagnostics.confusion import Confusion, block_order, counts, hardest, shares, worst

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 3])
PREDICTED = torch.tensor([0, 1, 1, 2, 1, 3, 3])
MATRIX = np.array([[1, 2, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]])  # no test image of class 2


def test_rows_are_the_true_classes() -> None:
    assert counts(LABELS, PREDICTED, 4).tolist() == MATRIX.tolist()


def test_shares_are_of_a_class_and_of_none_they_are_zero() -> None:
    assert shares(MATRIX).tolist() == [[0.25, 0.5, 0.25, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_the_worst_confusions_come_first_and_of_equal_ones_the_more_images() -> None:
    assert worst(MATRIX, 2) == [Confusion(0, 1, 2, 4), Confusion(1, 3, 1, 2)]
    assert worst(MATRIX, 9)[2:] == [Confusion(0, 2, 1, 4)]
    assert worst(MATRIX, 1)[0].share == 0.5
    assert worst(np.eye(3, dtype=np.int64), 5) == []


def test_the_hardest_classes_are_those_least_often_right_and_one_without_images_is_none() -> None:
    assert hardest(MATRIX, 9) == [Confusion(0, 0, 1, 4), Confusion(1, 1, 1, 2), Confusion(3, 3, 1, 1)]


def test_classes_that_are_confused_stand_together() -> None:
    # three families of classes, shuffled: within one they are confused in one direction or the other
    rng = np.random.default_rng(0)
    family = rng.permutation(np.repeat([0, 1, 2], [5, 6, 7]))
    same = family[:, None] == family[None]
    matrix = np.where(same, rng.integers(3, 9, size=same.shape), rng.integers(0, 2, size=same.shape)) + 50 * np.eye(18)
    order = block_order(matrix.astype(np.int64))
    assert sorted(order) == list(range(18))
    assert (np.diff(family[order]) != 0).sum() == 2, "each family is one run of the order"


def test_a_chain_of_confusions_is_walked_from_end_to_end() -> None:
    at = [4, 1, 5, 0, 3, 2]  # class k stands at at[k]; neighbours are confused, the nearer the middle the more
    matrix = 100 * np.eye(6, dtype=np.int64)
    where = np.argsort(at)
    for i in range(5):
        matrix[where[i], where[i + 1]] = 30 - 5 * i
    order = block_order(matrix)
    assert order in (where.tolist(), where.tolist()[::-1])


@pytest.mark.parametrize("num", [1, 2, 7])
def test_without_confusions_classes_keep_their_order(num: int) -> None:
    assert block_order(10 * np.eye(num, dtype=np.int64)) == list(range(num))
