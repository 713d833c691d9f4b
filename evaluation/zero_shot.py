"""Zero-shot classification: each class is the mean embedding of its name in several sentences, its prompt ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .retrieval import CHUNK, hits


def class_embeddings(
    embed: Callable[[Sequence[str]], Tensor], names: Sequence[str], sentences: Sequence[str]
) -> Tensor:
    """Returns the classes' embeddings (C, D) float32 on the CPU, each of length 1.

    A class's is the mean of the normalised embeddings of its name in every sentence, normalised again.

    Args:
        embed: texts -> (len(texts), D), normalised or not.
        names: C, one a class. sentences: K, with "{}" where the name goes.

    Raises:
        ValueError: embeddings that are not finite.

    Source: arXiv 2103.00020, section 3.1.4 (an ensemble over the embedding space).
    """
    texts = [sentence.replace("{}", name) for name in names for sentence in sentences]
    embedded = embed(texts).cpu()
    if not bool(embedded.isfinite().all()):
        raise ValueError(
            "the embeddings of the class names are not finite: broken weights, or a training that diverged"
        )
    means = [F.normalize(rows.double()).mean(dim=0) for rows in embedded.split(len(sentences))]
    return F.normalize(torch.stack(means)).float()


def accuracy(
    features: Tensor, labels: Tensor, classes: Tensor, num_templates: int, device: torch.device | None = None
) -> dict[str, float]:
    """Returns {"zero-shot-80templates/top1": percent, ".../top5"}: images whose class is among the k most similar.

    Top-5 is left out where there are five classes or fewer. Classes that are equally similar are ordered by lot, as in
    `retrieval.recall`.

    Args:
        features: of the images, (N, D). labels: (N,) in 0 .. C - 1. classes: (C, D), from `class_embeddings`.
        num_templates: part of the metric's name: another number is another protocol.
        device: where it is computed; None: where the features are.

    Raises:
        ValueError: shapes or labels that do not fit, or features that are not finite.
    """
    num_classes = len(classes)
    if features.shape[1:] != classes.shape[1:] or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"features {tuple(features.shape)}, labels {tuple(labels.shape)} and class embeddings "
            f"{tuple(classes.shape)} should be (N, D), (N,) and (C, D)"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} do not fit {num_classes} classes")
    if not bool(features.isfinite().all()):
        raise ValueError("image features are not finite: the weights are broken, or the training diverged")
    device = device or features.device
    unit = F.normalize(classes.to(device, torch.float64))
    ranks = _ranks(num_classes)
    found = torch.zeros(len(ranks), dtype=torch.float64, device=device)
    step = max(1, CHUNK // num_classes)
    for x, y in zip(features.split(step), labels.split(step), strict=True):
        similarity = F.normalize(x.to(device, torch.float64)) @ unit.T
        right = F.one_hot(y.to(device, torch.int64), num_classes).bool()
        found += hits(similarity, right, ranks).sum(dim=0)
    shares = (100 * found / len(features)).tolist()
    return {_name(num_templates, k): share for k, share in zip(ranks, shares, strict=True)}


def chance(num_classes: int, num_templates: int) -> dict[str, float]:
    """Returns `accuracy`'s metrics of a guess, in percent: k of C."""
    return {_name(num_templates, k): 100 * k / num_classes for k in _ranks(num_classes)}


def _ranks(num_classes: int) -> tuple[int, ...]:
    return (1, 5) if num_classes > 5 else (1,)


def _name(num_templates: int, k: int) -> str:
    return f"zero-shot-{num_templates}templates/top{k}"
