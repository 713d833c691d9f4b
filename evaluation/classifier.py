"""What a linear protocol makes of one encoder: a head a seed, and what was chosen for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**25  # logits or features held at once: 128 MB


@dataclass(frozen=True)
class Head:
    """A linear classifier of C classes on some of the features, which it may standardise first.

    weight: (d, C). bias: (C,).
    columns: which d of the D features it reads.
    mean, scale: (d,), or the same for all; the features less `mean`, times `scale`, are what `weight` multiplies.
    """

    weight: Tensor
    bias: Tensor
    columns: slice = field(default_factory=lambda: slice(None))
    mean: Tensor | float = 0.0
    scale: Tensor | float = 1.0

    def logits(self, features: Tensor) -> Tensor:
        """Returns (M, C) float32 on the head's device, of features (M, D) anywhere and of any precision."""
        x = features[:, self.columns].to(self.weight.device).float()
        return (x - self.mean) * self.scale @ self.weight + self.bias


@dataclass(frozen=True)
class Classifier:
    """The heads of S seeds, by all of which an accuracy is given; pictures show the first.

    selected: what was chosen on held-out training images, by name; {} where a protocol chooses nothing.
    """

    heads: tuple[Head, ...]
    selected: Mapping[str, Any] = field(default_factory=dict)

    def logits(self, features: Tensor) -> Tensor:
        """Returns (S, M, C) of features (M, D), all at once: for many images and classes rather `top`."""
        return torch.stack([head.logits(features) for head in self.heads])

    def confidence(self, features: Tensor) -> Tensor:
        """Returns the probability that the first seed's head gives to the class it predicts, (M,) on the CPU."""
        size = max(1, CHUNK // max(self.heads[0].bias.numel(), features.shape[1]))
        return torch.cat([self.heads[0].logits(x).softmax(dim=1).amax(dim=1).cpu() for x in features.split(size)])

    def top(self, features: Tensor, k: int = 5, classes: Tensor | None = None) -> Tensor:
        """Returns each seed's k classes of highest logit, highest first: (S, M, k) int64 on the CPU, less where C < k.

        Args:
            features: (M, D).
            classes: (K,) int64, the only ones that may be answered; None: all.
        """
        num_classes = self.heads[0].bias.numel()
        size = max(1, CHUNK // (len(self.heads) * max(num_classes, features.shape[1])))
        found = []
        for rows in features.split(size):
            logits = self.logits(rows)
            kept = torch.arange(num_classes, device=logits.device) if classes is None else classes.to(logits.device)
            # topk, not "how many are higher": of equal logits (a collapsed encoder) only one may count.
            found.append(kept[logits[:, :, kept].topk(min(k, len(kept)), dim=2).indices].cpu())
        return torch.cat(found, dim=1)
