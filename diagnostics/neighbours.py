"""Which training images an encoder finds nearest to some test images, and which test images are worth showing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**16  # training rows compared at once


def nearest(train: Tensor, queries: Tensor, k: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Returns (positions in train, cosine similarities), (Q, k) each, the nearest first; fewer where train has fewer.

    Args:
        train: (N, D) features of any precision, in memory or mapped. queries: (Q, D).
        device: where to compute; None: where the features are.
    """
    k = min(k, len(train))
    queries = F.normalize(queries.to(device).float(), dim=1)
    cosine = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(train), CHUNK):
        rows = F.normalize(train[start : start + CHUNK].to(device).float(), dim=1)
        found, at = (queries @ rows.T).topk(min(k, len(rows)), dim=1)
        cosine, index = torch.cat([cosine, found], dim=1), torch.cat([index, at + start], dim=1)
        cosine, at = cosine.topk(min(k, cosine.shape[1]), dim=1)
        index = index.gather(1, at)
    return index.cpu(), cosine.cpu()


def queries(labels: Tensor, predicted: Tensor, confidence: Tensor, num: int) -> tuple[list[int], list[int]]:
    """Returns positions of test images: `num` random ones, always the same of a split, and the most confident errors.

    Args:
        labels, predicted: (M,) classes. confidence: (M,) the probability that is given to the predicted class.
    """
    random = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:num].sort().values
    wrong = (predicted != labels).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)
    return random.tolist(), wrong[order[:num]].tolist()
