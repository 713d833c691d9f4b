"""Forward and backward of one step: at once, or in chunks of rows that give the same gradient with less memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm

from models import uncounted
from parallel import average_gradients

from .base import FEATURES, Batch, Objective, Precision, Text, embed

Result = tuple[dict[str, Tensor], dict[str, Tensor]]  # terms, embeddings; both without gradient


class WholeBatch:
    """One forward, one backward.

    Args:
        forward: a `Step`, or DistributedDataParallel around it.
    """

    def __init__(self, forward: nn.Module) -> None:
        self.forward = forward

    def __call__(self, batch: Batch, progress: float, scaler: GradScaler) -> Result:
        """Returns (terms, embeddings) and leaves the gradient of the whole batch in the parameters."""
        terms, z = self.forward(batch, progress)
        scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        return {name: term.detach() for name, term in terms.items()}, z


class Chunks:
    """The same step with the memory of one chunk's activations: a larger batch on fewer GPUs, for a second forward.

    Each chunk is embedded without gradient; the loss takes the whole global batch; then each chunk is embedded again
    and sent back the gradient of its embeddings. Exact, but where a network itself looks across the rows: BatchNorm's
    statistics are then of a chunk, see `batch_norm_rows`. Plain accumulation would instead be another loss: one that
    compares the rows of a chunk only.

    Args:
        num: chunks; divides the rows of a rank.
        compress: exchange gradients in bfloat16.

    Source: arXiv 2101.06983 (GradCache).
    """

    def __init__(self, objective: Objective, precision: Precision, num: int, compress: bool = False) -> None:
        self.objective, self.precision, self.num, self.compress = objective, precision, num, compress
        self.norms = [m for m in objective.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    def __call__(self, batch: Batch, progress: float, scaler: GradScaler) -> Result:
        """Returns (terms, embeddings) and leaves the gradient of the whole batch in the parameters."""
        chunks = split(batch, self.num)
        seed = torch.initial_seed()
        with torch.no_grad(), uncounted(self.norms):
            parts = [self._embed(chunk, progress, seed + i) for i, chunk in enumerate(chunks)]
        z = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        learned = [name for name, value in z.items() if value.is_floating_point() and name != FEATURES]
        for name in learned:
            z[name].requires_grad_()
        terms = self.objective.terms(z, progress)
        scaler.scale(torch.stack(list(terms.values())).sum()).backward()
        grads = {name: _gradient(z[name]).chunk(self.num) for name in learned}
        for i, chunk in enumerate(chunks):
            part = self._embed(chunk, progress, seed + i)
            torch.autograd.backward([part[name] for name in learned], [grads[name][i] for name in learned])
        average_gradients(self.objective, self.compress)
        return (
            {name: term.detach() for name, term in terms.items()},
            {name: value.detach() for name, value in z.items()},
        )

    def _embed(self, chunk: Batch, progress: float, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed % 2**64)  # the second forward drops out what the first did
        return embed(self.objective, chunk, progress, self.precision)


def _gradient(z: Tensor) -> Tensor:
    return z.grad if z.grad is not None else torch.zeros_like(z)  # a loss may not look at all embeddings


def split(batch: Batch, num: int) -> list[Batch]:
    """Returns the rows of a batch in `num` batches of equal size, in order."""
    views = list(zip(*(view.chunk(num) for view in batch.views), strict=True))
    texts: list[Text | None] = [None] * num
    if batch.text is not None:
        texts = [Text(*rows) for rows in zip(*(rows.chunk(num) for rows in batch.text), strict=True)]
    rest = zip(batch.index.chunk(num), batch.label.chunk(num), texts, strict=True)
    return [Batch(view, *rows) for view, rows in zip(views, rest, strict=True)]


def batch_norm_rows(objective: Objective, rows: int, chunks: int) -> int | None:
    """Returns how many rows BatchNorm takes its statistics over when a batch of `rows` is cut into `chunks`.

    None where that makes no difference: one chunk, or no BatchNorm.
    """
    looks_across = any(isinstance(module, _BatchNorm) for module in objective.modules())
    return rows // chunks if chunks > 1 and looks_across else None
