"""Weighted k-nearest-neighbour classification: no training, nothing to tune but k and T, which its name says."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**25  # similarities held at once: 128 MB


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
    bank = F.normalize(train.to(device).float(), dim=1).T  # (D, N)
    labels = labels.to(device)
    found = []
    for rows in test.split(max(1, CHUNK // len(train))):
        similarity = F.normalize(rows.to(device).float(), dim=1) @ bank
        nearest, index = similarity.topk(k, dim=1)  # (m, k), highest first
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = torch.zeros(len(rows), num_classes, device=device).scatter_add_(1, labels[index], weight)
        found.append(votes.argmax(dim=1).cpu())
    return torch.cat(found)


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
