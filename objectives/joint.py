"""Joint embedding of two views: Barlow Twins, VICReg, SimCLR, N-pairs, sample correlation differ only in the loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models import Backbone, Mlp
from parallel import AllRanks, gather

from .base import FEATURES, Batch, Objective


class JointEmbedding(Objective):
    """loss(head(encoder(view 1)), head(encoder(view 2))), on the rows of all ranks.

    The two views go through the network in two forwards, as in the official Barlow Twins and VICReg code: BatchNorm's
    statistics are each view's own.

    Args:
        encoder: the backbone; its width is the head's input.
        head: the projector; what the loss sees is thrown away after pretraining.
        loss: called on (N, D), (N, D) of the whole batch; returns named terms whose sum is the loss. One that takes
            `ranks` is called on this rank's rows instead, and exchanges with the others what it needs of them.
    """

    def __init__(self, encoder: Backbone, head: Mlp, loss: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.encoder, width = encoder.build()
        self.head: nn.Module = head.build(width)
        self.loss = loss
        self.takes_ranks = "ranks" in inspect.signature(loss).parameters

    def embed(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Returns {"a", "b"}, (n, D) for each of the two views, and the features."""
        first, second = (self.encoder(view) for view in batch.views)
        features = torch.stack([first.detach(), second.detach()], dim=1)
        return {"a": self.head(first), "b": self.head(second), FEATURES: features}

    def terms(self, z: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Returns the loss's terms on the rows of all ranks."""
        if self.takes_ranks:
            return self.loss(z["a"], z["b"], ranks=AllRanks())
        return self.loss(gather(z["a"]), gather(z["b"]))

    def sanity(self, num_rows: int) -> Any:
        """Returns the loss when collapsed, independent and perfect, for `num_rows` rows; None if it says none."""
        lines = getattr(self.loss, "sanity", None)
        width = next(m.out_features for m in reversed(list(self.head.modules())) if isinstance(m, nn.Linear))
        return lines(num_rows, width) if lines else None
