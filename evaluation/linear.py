"""Linear probe on cached features: many heads in one batched tensor, the best chosen on a held-out part of *train*."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .classifier import CHUNK, Classifier, Head
from .intervals import Metric
from .protocols import Cached

MOMENTUM = 0.9
INIT_STD = 0.01


@dataclass(frozen=True)
class Setting:
    """What is chosen on held-out training rows."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Heads:
    """Linear classifiers of S seeds and H settings: weight (S, H, D, C), bias (S, H, C), on standardised features."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,): 1 / standard deviation, 0 where a feature is constant
    weight: Tensor
    bias: Tensor

    def score(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns top-1, top-5 (percent) and mean cross-entropy, (S, H) each, of rows (N, D) with classes (N,)."""
        S, H, D, C = self.weight.shape
        weight = self.weight.permute(2, 0, 1, 3).reshape(D, S * H * C)
        right1, right5, loss = (torch.zeros(S, H, dtype=torch.float64, device=weight.device) for _ in range(3))
        size = max(1, CHUNK // (S * H * C))
        for rows, classes in zip(x.split(size), y.split(size), strict=True):
            z = ((rows.to(weight.device) - self.mean) * self.scale @ weight).view(-1, S, H, C) + self.bias
            classes = classes.to(weight.device)[:, None, None, None].expand(-1, S, H, 1)
            # topk, not "how many are higher": of equal logits (a collapsed encoder) only one may count.
            hit = z.topk(min(5, C), dim=3).indices == classes
            right1 += hit[..., 0].sum(dim=0)
            right5 += hit.any(dim=3).sum(dim=0)
            loss += (z.logsumexp(dim=3) - z.gather(3, classes)[..., 0]).sum(dim=0)
        return 100 * right1.cpu() / len(x), 100 * right5.cpu() / len(x), loss.cpu() / len(x)

    def best_on_test(self, x: Tensor, y: Tensor) -> dict[str, Metric]:
        """Returns the highest accuracy of any head, which papers print and is no estimate: to stand beside a choice."""
        return {"top1-best-head-on-test": Metric((float(self.score(x, y)[0].max()),))}


def fit(
    x: Tensor, y: Tensor, num_classes: int, protocol: Cached, seeds: Sequence[int], device: torch.device
) -> tuple[Classifier, Heads]:
    """Returns a head a seed, trained on all rows with the setting chosen on a part of them, and the candidates.

    The candidates are a head of the first seed for every setting, trained without the held-out rows.

    Args:
        x: (N, D) training features. y: (N,) classes.

    Raises:
        ValueError: no class has two rows, so that none can be held out.
    """
    held = holdout(y, protocol.holdout)
    settings = [Setting(lr, decay) for decay in protocol.weight_decays for lr in protocol.lrs]
    candidates = train_heads(x[~held], y[~held], num_classes, settings, seeds[:1], protocol, device)
    top1, _, loss = (score[0].tolist() for score in candidates.score(x[held], y[held]))
    best = choose(top1, loss, int(held.sum()))
    chosen = settings[best]
    selected = {
        "lr": chosen.lr,
        "weight_decay": chosen.weight_decay,
        "holdout_top1": top1[best],
        "lr_at_edge_of_grid": chosen.lr in (min(protocol.lrs), max(protocol.lrs)),  # a better one may lie outside
    }
    final = train_heads(x, y, num_classes, [chosen], seeds, protocol, device)
    heads = [
        Head(weight, bias, mean=final.mean, scale=final.scale)
        for weight, bias in zip(final.weight[:, 0], final.bias[:, 0], strict=True)
    ]
    return Classifier(tuple(heads), selected), candidates


def choose(top1: Sequence[float], loss: Sequence[float], num_rows: int) -> int:
    """Returns the position of the lowest loss among those whose top-1 is within half a standard error of the highest.

    A few hundred held-out rows cannot tell near-equal accuracies apart, the loss can: docs/evaluation.md compares.
    A head that diverged (its loss is not finite) is never taken.
    """
    finite = [i for i in range(len(loss)) if math.isfinite(loss[i])]
    assert finite, "softmax regression on finite features cannot diverge at every learning rate"
    highest = max(top1[i] for i in finite)
    slack = 0.5 * 100 * math.sqrt(highest / 100 * (1 - highest / 100) / num_rows)
    return min((i for i in finite if top1[i] >= highest - slack), key=lambda i: loss[i])


def holdout(y: Tensor, part: float) -> Tensor:
    """Returns which rows are held out, (N,) bool: `part` of every class, at least one row of a class that has two.

    A function of the labels alone: random, since neighbours in a folder are often near-copies, by a fixed seed.

    Raises:
        ValueError: no class has two rows.
    """
    rng = np.random.default_rng(0)
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in range(int(y.max()) + 1):
        rows = torch.from_numpy(rng.permutation((y == label).nonzero().flatten().numpy()))
        if len(rows) >= 2:
            held[rows[: max(1, round(part * len(rows)))]] = True
    if not held.any():
        raise ValueError(
            "a linear probe needs a class with two training images: the learning rate is chosen on held-out ones"
        )
    return held


def train_heads(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    protocol: Cached,
    device: torch.device,
) -> Heads:
    """Returns softmax regressions for every seed and setting, all trained at once; each is what it would be alone.

    A seed decides the order of rows and the initial head; settings share both. The weight, not the bias, decays.
    """
    x, y = x.to(device), y.to(device)
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    # A feature is constant if it varies by less than float32 can tell: dividing by that would blow rounding up.
    constant = std <= 1e-6 * torch.maximum(mean.abs(), std.max())
    scale = torch.where(constant, 0.0, 1 / std)
    x = (x - mean) * scale
    (N, D), S, H, C = x.shape, len(seeds), len(settings), num_classes
    batch = min(protocol.batch_size, N)
    num_steps, per_epoch = protocol.num_steps(N), max(1, N // batch)

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    first = torch.stack([torch.randn(D, C, 1, generator=g) for g in generators]).mul_(INIT_STD)
    # Settings innermost: softmax over a short last dimension is several times slower.
    weight = first.expand(S, D, C, H).reshape(S, D, C * H).to(device)
    bias = torch.zeros(S, 1, C * H, device=device)
    lr = torch.tensor([s.lr for s in settings], device=device).repeat(C)  # (C * H,)
    decay = torch.tensor([s.weight_decay for s in settings], device=device).repeat(C)
    weight_velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    seed, row = torch.arange(S, device=device)[:, None], torch.arange(batch, device=device)

    for step in range(num_steps):
        if step % per_epoch == 0:
            order = torch.stack([torch.randperm(N, generator=g) for g in generators]).to(device)  # (S, N)
        position = step % per_epoch * batch
        rows = order[:, position : position + batch]  # (S, n)
        inputs = x[rows]  # (S, n, D)
        # The gradient of the mean cross-entropy by the logits is (softmax - one-hot) / n.
        error = torch.baddbmm(bias, inputs, weight).view(S, batch, C, H).softmax(dim=2)
        error[seed, row, y[rows]] -= 1
        error = error.view(S, batch, C * H).div_(batch)
        weight_velocity.mul_(MOMENTUM).baddbmm_(inputs.mT, error).addcmul_(weight, decay)
        bias_velocity.mul_(MOMENTUM).add_(error.sum(dim=1, keepdim=True))
        rate = lr * (0.5 * (1 + math.cos(math.pi * step / num_steps)))
        weight.addcmul_(weight_velocity, rate, value=-1)
        bias.addcmul_(bias_velocity, rate, value=-1)

    return Heads(mean, scale, weight.view(S, D, C, H).permute(0, 3, 1, 2), bias.view(S, C, H).mT)
