"""Many linear heads on one frozen encoder, all trained by the same batch: each is what it would be alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parallel import all_reduce_sum

from .classifier import CHUNK, Head
from .protocols import Augmented

MOMENTUM = 0.9


@dataclass(frozen=True)
class Labelled:
    """Features and their classes: x (N, D) on any device, y (N,)."""

    x: Tensor
    y: Tensor


class HeadsInTraining:
    """Linear heads on a frozen encoder's features: of each kind of features, one for each learning rate.

    They are a `resumable.Learner`: `measure` gives top-1 and top-5 of every head on the
    test split, [[...], [...]] in percent, heads in the order of `settings`.

    Args:
        encoder: (n, 3, H, W) -> (n, D), frozen by the caller.
        columns: kind -> the columns of D that its heads read.
        lrs: of the first step, of the L heads of each kind.
        num_steps: of the training; with the protocol they give the learning rate of a step.
        seed: of the first weights.
    """

    def __init__(
        self,
        encoder: nn.Module,
        columns: Mapping[str, slice],
        lrs: Sequence[float],
        num_classes: int,
        protocol: Augmented,
        num_steps: int,
        test: Labelled,
        device: torch.device,
        seed: int,
    ) -> None:
        self.encoder, self.columns, self.lrs = encoder, dict(columns), tuple(lrs)
        self.protocol, self.num_steps, self.test, self.device = protocol, num_steps, test, device
        self.settings = [(kind, lr) for kind in self.columns for lr in self.lrs]
        self.width = test.x.shape[1]
        # Weight (D, L, C) and, as the row of a feature that is always 1, bias: the papers' weight decay is of both.
        self.heads: dict[str, Tensor] = {}
        for kind, part in self.columns.items():
            D = len(range(self.width)[part])
            first = torch.zeros(D + 1, num_classes)
            generator = torch.Generator().manual_seed(seed)
            first[:-1] = torch.randn(num_classes, D, generator=generator).T * protocol.init_std
            self.heads[kind] = first[:, None].repeat(1, len(self.lrs), 1).to(device)
        self.velocity = {kind: torch.zeros_like(head) for kind, head in self.heads.items()}
        self.lr = torch.tensor(self.lrs, device=device)[:, None]

    def see(self, x: Tensor) -> Tensor:
        """Returns the encoder's features, (n, D) float32."""
        return self.encoder(x).float()

    def step(self, seen: Sequence[Tensor], labels: Tensor, num_rows: int, step: int) -> None:
        """One step of SGD for every head; `num_rows` are the whole batch's, of all ranks."""
        x = torch.cat([torch.empty(0, self.width, device=self.device), *seen])
        rate = self.lr * self.protocol.decay(step, self.num_steps)
        row = torch.arange(len(x), device=self.device)
        for kind, head in self.heads.items():
            rows = self._rows(kind, x)
            # The gradient of the mean cross-entropy by the logits is (softmax - one-hot) / n.
            error = (rows @ head.flatten(1)).view(len(x), *head.shape[1:]).softmax(dim=2)
            error[row, :, labels] -= 1
            gradient = all_reduce_sum((rows.T @ error.div_(num_rows).flatten(1)).view_as(head))
            gradient.add_(head, alpha=self.protocol.weight_decay)
            velocity = self.velocity[kind].mul_(MOMENTUM).add_(gradient)
            head -= rate * (gradient.add_(velocity, alpha=MOMENTUM) if self.protocol.nesterov else velocity)

    def measure(self) -> list[list[float]]:
        """Returns top-1 and top-5 on the test split."""
        top1, top5, _ = self.score(self.test)
        return [top1, top5]

    def score(self, rows: Labelled) -> tuple[list[float], list[float], list[float]]:
        """Returns top-1, top-5 (percent) and mean cross-entropy of every head."""
        found: list[list[float]] = [[], [], []]
        for kind, head in self.heads.items():
            _, L, C = head.shape
            sums = torch.zeros(3, L, dtype=torch.float64, device=self.device)
            size = max(1, CHUNK // (L * C))
            for x, y in zip(rows.x.split(size), rows.y.split(size), strict=True):
                z = (self._rows(kind, x.to(self.device).float()) @ head.flatten(1)).view(len(x), L, C)
                classes = y.to(self.device)[:, None, None].expand(-1, L, 1)
                hit = z.topk(min(5, C), dim=2).indices == classes
                loss = z.logsumexp(dim=2) - z.gather(2, classes)[..., 0]
                sums += torch.stack([hit[..., 0].sum(dim=0), hit.any(dim=2).sum(dim=0), loss.sum(dim=0)])
            top1, top5, loss = (sums.cpu() / len(rows.x)).tolist()
            found[0] += [100 * share for share in top1]
            found[1] += [100 * share for share in top5]
            found[2] += loss
        return found[0], found[1], found[2]

    def head(self, number: int) -> Head:
        """Returns one of the heads, in the order of `settings`."""
        kind, _ = self.settings[number]
        both = self.heads[kind][:, number % len(self.lrs)]
        return Head(both[:-1], both[-1], self.columns[kind])

    def _rows(self, kind: str, x: Tensor) -> Tensor:
        """The columns that a kind's heads read, and a 1 for the bias: (n, D_total) -> (n, D + 1)."""
        return torch.cat([x[:, self.columns[kind]], torch.ones(len(x), 1, device=x.device)], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the heads and their velocities."""
        return {"heads": self.heads, "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state."""
        for own, saved in ((self.heads, state["heads"]), (self.velocity, state["velocity"])):
            for kind, tensor in own.items():
                tensor.copy_(saved[kind])
