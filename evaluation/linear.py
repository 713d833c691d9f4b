"""Linear probe on cached features: many heads in one batched tensor, one chosen on a held-out part of *train*."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training import stop

from .classifier import CHUNK, Classifier, Head
from .heads import Labelled
from .intervals import Metric
from .protocols import Cached

MOMENTUM = 0.9
INIT_STD = 0.01


@dataclass(frozen=True)
class Setting:
    """What is chosen on held-out training rows, beside the kind of features."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Heads:
    """Linear classifiers of S seeds and H settings on d standardised features: weight (S, H, d, C), bias (S, H, C).

    columns: which d of the D features they read.
    mean, scale: (d,); scale is 1 / standard deviation, 0 where a feature is constant.
    """

    columns: slice
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def score(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns top-1 (percent) and mean cross-entropy, (S, H) each, of rows (N, D) with classes (N,)."""
        S, H, d, C = self.weight.shape
        weight = self.weight.permute(2, 0, 1, 3).reshape(d, S * H * C)
        right, loss = (torch.zeros(S, H, dtype=torch.float64, device=weight.device) for _ in range(2))
        size = max(1, CHUNK // (S * H * C))
        for rows, classes in zip(x[:, self.columns].split(size), y.split(size), strict=True):
            standard = (rows.to(weight.device).float() - self.mean) * self.scale
            z = (standard @ weight).view(-1, S, H, C) + self.bias
            classes = classes.to(weight.device)[:, None, None]
            right += (z.argmax(dim=3) == classes).sum(dim=0)
            loss += (z.logsumexp(dim=3) - z.gather(3, classes[..., None].expand(-1, S, H, 1))[..., 0]).sum(dim=0)
        return 100 * right.cpu() / len(x), loss.cpu() / len(x)

    def of(self, setting: int) -> tuple[Head, ...]:
        """Returns the head of each seed by the setting at that position."""
        return tuple(
            Head(weight, bias, self.columns, self.mean, self.scale)
            for weight, bias in zip(self.weight[:, setting], self.bias[:, setting], strict=True)
        )


def fit(
    x: Tensor,
    y: Tensor,
    kinds: Mapping[str, slice],
    num_classes: int,
    protocol: Cached,
    seeds: Sequence[int],
    device: torch.device,
) -> Classifier:
    """Returns a head a seed, trained on all rows by what was chosen on a part of them.

    The candidates are heads of the first seed for every setting, for each kind of features, trained without the
    held-out rows.

    Args:
        x: (N, D) training features; those that do not fit on the device are moved batch by batch. y: (N,) classes.
        kinds: by name, the columns of the features that may be chosen.

    Raises:
        ValueError: no class has two rows, so that none can be held out.
    """
    held = holdout(y, protocol.holdout)
    kept = (~held).nonzero().flatten()
    x = _near(x, device)
    settings = settings_of(protocol)
    candidates = [
        train_heads(x, y, num_classes, settings, seeds[:1], protocol, device, kept, columns)
        for columns in kinds.values()
    ]
    held_x = x[held.to(x.device)]
    scores = [heads.score(held_x, y[held]) for heads in candidates]
    top1, loss = (torch.cat([score[k][0] for score in scores]).tolist() for k in (0, 1))
    best = choose(top1, loss, len(held_x))
    kind, chosen = list(kinds)[best // len(settings)], settings[best % len(settings)]
    selected = {
        "kind": kind,
        "lr": chosen.lr,
        "weight_decay": chosen.weight_decay,
        "holdout_top1": top1[best],
        "lr_at_edge_of_grid": chosen.lr in (min(protocol.lrs), max(protocol.lrs)),  # a better one may lie outside
    }
    final = train_heads(x, y, num_classes, [chosen], seeds, protocol, device, columns=kinds[kind])
    return Classifier(final.of(0), selected)


def settings_of(protocol: Cached) -> list[Setting]:
    """Returns what a kind of features has heads for."""
    return [Setting(lr, decay) for decay in protocol.weight_decays for lr in protocol.lrs]


def best_on_test(
    train: Labelled,
    test: Labelled,
    kinds: Mapping[str, slice],
    num_classes: int,
    protocol: Cached,
    seed: int,
    device: torch.device,
) -> dict[str, Metric]:
    """Returns the highest accuracy of any setting and kind, which papers print and is no estimate.

    For beside a choice, and after it: heads of one seed, each trained on all rows as the chosen one is.
    """
    x, best = _near(train.x, device), 0.0
    for columns in kinds.values():
        heads = train_heads(x, train.y, num_classes, settings_of(protocol), [seed], protocol, device, columns=columns)
        best = max(best, float(heads.score(test.x, test.y)[0].max()))
    return {"top1-best-head-on-test": Metric((best,))}


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
    rows: Tensor | None = None,
    columns: slice | None = None,
) -> Heads:
    """Returns softmax regressions for every seed and setting, all trained at once; each is what it would be alone.

    A seed decides the order of rows and the initial head; settings share both. The weight, not the bias, decays.

    Args:
        x: (N, D) features of any precision, on `device` or the CPU. y: (N,) classes.
        rows: positions of the rows to train on; None: all.
        columns: of the features to train on; None: all.
    """
    columns = columns or slice(None)
    rows = torch.arange(len(x)) if rows is None else rows
    x, y = x[:, columns], y.to(device)
    mean, scale = _standard(x, rows, device)
    N, D, S, H, C = len(rows), x.shape[1], len(seeds), len(settings), num_classes
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
    seed, position = torch.arange(S, device=device)[:, None], torch.arange(batch, device=device)

    for step in range(num_steps):
        stop.heed()
        if step % per_epoch == 0:
            order = torch.stack([rows[torch.randperm(N, generator=g)] for g in generators]).to(x.device)  # (S, N)
        start = step % per_epoch * batch
        drawn = order[:, start : start + batch]  # (S, n)
        inputs = (x[drawn].to(device).float() - mean) * scale  # (S, n, D)
        # The gradient of the mean cross-entropy by the logits is (softmax - one-hot) / n.
        error = torch.baddbmm(bias, inputs, weight).view(S, batch, C, H).softmax(dim=2)
        error[seed, position, y[drawn.to(device)]] -= 1
        error = error.view(S, batch, C * H).div_(batch)
        weight_velocity.mul_(MOMENTUM).baddbmm_(inputs.mT, error).addcmul_(weight, decay)
        bias_velocity.mul_(MOMENTUM).add_(error.sum(dim=1, keepdim=True))
        rate = lr * (0.5 * (1 + math.cos(math.pi * step / num_steps)))
        weight.addcmul_(weight_velocity, rate, value=-1)
        bias.addcmul_(bias_velocity, rate, value=-1)

    return Heads(columns, mean, scale, weight.view(S, D, C, H).permute(0, 3, 1, 2), bias.view(S, C, H).mT)


def _standard(x: Tensor, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns mean and 1 / standard deviation of those rows, (D,) float32 each, 0 for a constant feature."""

    def mean(of: Callable[[Tensor], Tensor]) -> Tensor:
        size = max(1, CHUNK // x.shape[1])
        parts = [of(x[part.to(x.device)].to(device).double()).sum(dim=0) for part in rows.split(size)]
        return torch.stack(parts).sum(dim=0) / len(rows)

    centre = mean(lambda part: part)
    std = mean(lambda part: (part - centre).square()).sqrt()
    # A feature is constant if it varies by less than float32 can tell: dividing by that would blow rounding up.
    constant = std <= 1e-6 * torch.maximum(centre.abs(), std.max())
    return centre.float(), torch.where(constant, 0.0, 1 / std).float()


def _near(x: Tensor, device: torch.device) -> Tensor:
    """Returns the features on the device if they take at most half of the memory that is free there."""
    if device.type != "cuda" or x.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return x
    return x.to(device)
