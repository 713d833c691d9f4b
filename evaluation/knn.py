"""Weighted k-nearest-neighbour classification: no training, nothing to tune but k and T, which its name says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BANK, QUERIES = 2**16, 2**10  # rows that are compared at once: 256 MB of similarities
GROUP = 16  # columns; of 8 to 50 the fastest for 20 and 200 of 50,000: 0.36 and 0.66 of topk's time


def metric_name(k: int, temperature: float) -> str:
    """Returns "knn-k20-T0.07": numbers of other k or T are another metric."""
    return f"knn-k{k}-T{temperature:g}"


def check(k: int, temperature: float, num_train: int) -> None:
    """Raises:
    ValueError: k is not in 1 .. num_train (fewer neighbours would be another metric), or T is not positive.
    """
    if not 1 <= k <= num_train:
        raise ValueError(
            f"k-NN with k {k} needs at least as many training images as k, and k at least 1; there are {num_train}"
        )
    if not temperature > 0:
        raise ValueError(f"k-NN temperature {temperature} should be above 0, such as 0.07")


def predict(
    train: Tensor, labels: Tensor, test: Tensor, num_classes: int, k: int, temperature: float, device: torch.device
) -> Tensor:
    """Returns the class of each test row, (M,) int64 on the CPU.

    The k training rows of highest cosine similarity vote for their class with weight exp(similarity / temperature).

    Args:
        train: (N, D). labels: (N,) in 0 .. num_classes - 1. test: (M, D).

    Raises:
        ValueError: as `check`.

    Source: Wu, Xiong, Yu, Lin, "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018,
    section 3.4. Weights are scaled by the nearest one's, which changes no vote and cannot overflow at small T.
    """
    check(k, temperature, len(train))
    similarity, index = nearest(train, test, k, device)
    found = []
    for close, rows in zip(similarity.split(QUERIES), labels.to(device)[index].split(QUERIES), strict=True):
        weight = ((close - close.amax(dim=1, keepdim=True)) / temperature).exp()
        votes = torch.zeros(len(close), num_classes, device=device).scatter_add_(1, rows, weight)
        found.append(votes.argmax(dim=1).cpu())
    return torch.cat(found)


def nearest(train: Tensor, test: Tensor, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (cosine similarities, positions in `train`) of the k nearest to each test row, (M, k) each, in no order.

    Rows of any precision, anywhere: those of `train` are read once, a block at a time, so a memory map stays one.
    """
    similarity = torch.full((len(test), k), -torch.inf, device=device)
    index = torch.zeros(len(test), k, dtype=torch.int64, device=device)
    # One block of memory for all products: a fresh one each time costs a CPU a quarter of the product itself.
    products = torch.empty(min(QUERIES, len(test)) * min(BANK, len(train)), device=device)
    for start in range(0, len(train), BANK):
        bank = F.normalize(train[start : start + BANK].to(device).float(), dim=1).T
        for first in range(0, len(test), QUERIES):
            rows = slice(first, first + QUERIES)
            x = F.normalize(test[rows].to(device).float(), dim=1)
            product = multiply(x, bank, out=products[: len(x) * bank.shape[1]].view(len(x), -1))
            close, place = highest(product, min(k, bank.shape[1]))
            close = torch.cat([similarity[rows], close], dim=1)
            place = torch.cat([index[rows], place + start], dim=1)
            similarity[rows], kept = close.topk(k, dim=1, sorted=False)
            index[rows] = place.gather(1, kept)
    return similarity, index


def multiply(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Returns `x @ y`, written to `out`; float32 on any device.

    On CPUs by numpy, whose wheel brings OpenBLAS: 0.9 of the time of torch's MKL on cores of AMD.
    """
    if x.device.type != "cpu":
        return torch.mm(x, y, out=out)
    np.matmul(x.numpy(), y.numpy(), out=out.numpy())
    return out


def highest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k highest values of each row and their columns, in no order: `topk`, faster on long rows.

    The k highest of a row lie in the k groups of columns with the highest maxima, so only those are sorted.
    """
    num = x.shape[1] // GROUP
    if num < k:
        return x.topk(k, dim=1, sorted=False)
    groups = x[:, : GROUP * num].unflatten(1, (GROUP, num))  # column c is in group c % num; the last few are in none
    best = groups.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = groups.gather(2, best[:, None].expand(-1, GROUP, -1)).flatten(1)  # (rows, GROUP * k)
    value, place = torch.cat([candidates, x[:, GROUP * num :]], dim=1).topk(k, dim=1, sorted=False)
    inside = best.gather(1, place % k) + place // k * num
    return value, torch.where(place < GROUP * k, inside, place + GROUP * (num - k))


def top1(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    num_classes: int,
    k: int,
    temperature: float,
    device: torch.device,
) -> float:
    """Returns the percentage of test rows whose class `predict` finds."""
    right = predict(train, labels, test, num_classes, k, temperature, device) == test_labels
    return 100 * right.double().mean().item()
