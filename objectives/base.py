"""The seam between the training loop and a method: what every objective offers, and the step that DDP wraps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16", "fp64"]
FEATURES = "features"  # among embeddings: the encoder's own, which no loss looks at


class Text(NamedTuple):
    """The caption drawn for each row of a batch.

    tokens: (n, L) int64, as the recipe's tokenizer gives them.
    group: (n,) int64, equal for equal rows of tokens and for them only: equal captions are positives of each other.
    """

    tokens: Tensor
    group: Tensor


class Batch(NamedTuple):
    """This rank's rows of one global batch.

    views: V tensors (n, 3, H, W): uint8 from the loader, float32 and normalised once on the device.
    index: (n,) the samples' positions in the training set.
    label: (n,) class numbers; objectives do not look at them.
    text: the captions, where the recipe has a tokenizer.
    """

    views: tuple[Tensor, ...]
    index: Tensor
    label: Tensor
    text: Text | None = None


class Objective(nn.Module):
    """Networks and a loss. All state is a parameter or a buffer, so that one state_dict resumes everything."""

    encoder: nn.Module  # what pretraining is for: (n, 3, H, W) -> (n, width)

    def embed(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Returns this rank's embeddings by name, each (n, D): networks only, no exchange between ranks.

        What else the loss needs of a row, such as which captions are equal, may stand beside them as integers. Under
        FEATURES stand the encoder's features of the V views, (n, V, width), detached: an online probe reads them.
        """
        raise NotImplementedError

    def terms(self, z: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Returns named terms whose sum is the loss of the *whole* batch; gathers if it compares samples."""
        raise NotImplementedError

    def trunks(self) -> list[nn.Module]:
        """Returns the networks that are compiled and recomputed where the command line asks for it."""
        return [self.encoder]

    def watched(self) -> dict[str, Tensor]:
        """Returns scalars worth a curve besides the loss, such as a learned temperature. Default: none."""
        return {}

    def after_step(self, z: dict[str, Tensor], progress: float) -> None:
        """Called after the optimiser: a teacher, queue or centre moves here. Default: nothing."""

    def sanity(self, num_rows: int) -> Any:
        """Returns the loss when collapsed, independent and perfect, for a batch of `num_rows`, or None if unknown."""
        return None


class Step(nn.Module):
    """One forward: `embed` under autocast, then `terms` without. This is what DistributedDataParallel wraps."""

    def __init__(self, objective: Objective, precision: Precision = "fp32") -> None:
        super().__init__()
        self.objective = objective
        self.precision: Precision = precision

    def forward(self, batch: Batch, progress: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns (terms, detached embeddings) at `progress` in [0, 1) of the run."""
        z = embed(self.objective, batch, progress, self.precision)
        terms = self.objective.terms(z, progress)
        return terms, {name: value.detach() for name, value in z.items()}


def embed(objective: Objective, batch: Batch, progress: float, precision: Precision) -> dict[str, Tensor]:
    """Returns the embeddings of a batch, networks run at `precision`, at least float32.

    They are promoted before anything is gathered: sums over ranks in half precision would make the loss depend on
    their number.
    """
    if precision == "fp64":  # for checks of exactness: the networks are in float64 already
        batch = batch._replace(views=tuple(view.double() for view in batch.views))
    with autocast(batch.views[0].device, precision):
        z = objective.embed(batch, progress)
    return {name: at_least_float32(value) for name, value in z.items()}


def at_least_float32(value: Tensor) -> Tensor:
    """Returns half precision as float32; float64 and integers as they are."""
    return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Returns the context in which networks run at `precision` ("fp32" and "fp64": as they are)."""
    if precision in ("fp32", "fp64"):
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
