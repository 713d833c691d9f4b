"""Linear probe on augmented images: the papers' protocol, one pass of the frozen encoder over every augmented batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import PROBE_TRAIN, Center, View
from data import ImageSet

from .classifier import Head
from .features import frozen
from .images import Rows, batches, progress
from .protocols import Augmented

MOMENTUM = 0.9
INIT_STD = 0.01


@dataclass(frozen=True)
class Curve:
    """Accuracy on the test split after every epoch, in percent."""

    top1: tuple[float, ...]
    top5: tuple[float, ...]


def train_view(view: Center) -> View:
    """Returns the papers' random crop and flip at the size and with the channel statistics of the evaluation view."""
    return replace(PROBE_TRAIN, size=view.size, mean=view.mean, std=view.std)


def train_head(
    encoder: nn.Module,
    train_set: ImageSet,
    test_features: Tensor,
    test_labels: Tensor,
    view: View,
    protocol: Augmented,
    device: torch.device,
    workers: int,
    seed: int,
) -> tuple[Head, Curve]:
    """Returns a linear head that was trained on augmented images, and its test accuracy after each epoch.

    The encoder is frozen and the test view is fixed, so the test features are computed once, which the official code
    does anew after every epoch. An epoch's last batch is the rest, as there.

    Args:
        test_features: (M, D). test_labels: (M,).
        seed: of the head, the order and the crops.

    Raises:
        BadImage: an image cannot be read.

    Source: facebookresearch/barlowtwins evaluate.py at 8e8d284. We differ in the random numbers, and in one process for
    its one per GPU (its sampler repeats a few images where they do not divide).
    """
    num, batch = len(train_set), protocol.batch_size
    num_classes = len(train_set.classes)
    labels = torch.as_tensor(train_set.labels, dtype=torch.int64, device=device)
    test_features, test_labels = test_features.to(device), test_labels.to(device)

    head = nn.utils.skip_init(nn.Linear, test_features.shape[1], num_classes, device=device)
    first = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)) * INIT_STD
    with torch.no_grad():
        head.weight.copy_(first)
        head.bias.zero_()
    optimizer = torch.optim.SGD(
        head.parameters(), lr=protocol.lr, momentum=MOMENTUM, weight_decay=protocol.weight_decay
    )

    per_epoch = math.ceil(num / batch)
    order = _order(num, batch, protocol.epochs, seed)
    pixels = batches(train_set, view, order, device, workers, seed)
    right1: list[float] = []
    right5: list[float] = []
    encoder.to(device)
    with frozen(encoder):
        steps = enumerate(progress(pixels, per_epoch * protocol.epochs, protocol.id))
        again = _order(num, batch, protocol.epochs, seed)  # the rows of each batch, for their labels
        for (step, x), (epoch, rows) in zip(steps, again, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = protocol.lr * 0.5 * (1 + math.cos(math.pi * epoch / protocol.epochs))
            features = encoder(x).float()
            with torch.enable_grad():
                loss = F.cross_entropy(head(features), labels[torch.as_tensor(rows, device=device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % per_epoch == 0:
                first, fifth = _accuracy(head, test_features, test_labels)
                right1.append(first)
                right5.append(fifth)
    return Head(head.weight.detach().T, head.bias.detach()), Curve(tuple(right1), tuple(right5))


def _order(num: int, batch: int, epochs: int, seed: int) -> Iterator[Rows]:
    """Yields (epoch, samples) of every batch: each sample once an epoch."""
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for rows in torch.randperm(num, generator=generator).split(batch):
            yield epoch, rows.tolist()


def _accuracy(head: nn.Module, features: Tensor, labels: Tensor) -> tuple[float, float]:
    hits1 = hits5 = 0
    for x, y in zip(features.split(4096), labels.split(4096), strict=True):
        z = head(x)
        hit = z.topk(min(5, z.shape[1]), dim=1).indices == y[:, None]
        hits1 += int(hit[:, 0].sum())
        hits5 += int(hit.any(dim=1).sum())
    return 100 * hits1 / len(features), 100 * hits5 / len(features)
