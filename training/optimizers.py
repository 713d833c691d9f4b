"""Optimisers as recipes write them: frozen specs with `.build(module)`; biases and norm parameters apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .lars import LARS, Variant, check_lars, check_number


@dataclass(frozen=True, kw_only=True)
class Lars:
    """LARS. `lr` and `lr_vectors` are the peaks of the schedule, already scaled to the batch size.

    Args:
        lr: of the weights.
        lr_vectors: of biases and norm parameters; None: the same as `lr`.
        weight_decay: of the weights; vectors have none.
        eta: trust coefficient, the size of a step relative to the tensor it moves, before `lr`.
        variant: `paper` or `solo-learn`: see `training.lars`.
        clip: solo-learn only: trust / lr at most 1, so that no tensor moves faster than plain SGD would.

    Source: momentum and eta: facebookresearch/barlowtwins@8e8d284 main.py, the same in vicreg@4e12602.
    """

    lr: float
    lr_vectors: float | None = None
    weight_decay: float
    momentum: float = 0.9
    eta: float = 0.001
    variant: Variant = "paper"
    clip: bool = False

    def __post_init__(self) -> None:
        check_lars(
            self.variant,
            self.clip,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            eta=self.eta,
            **({} if self.lr_vectors is None else {"lr_vectors": self.lr_vectors}),
        )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over the module's trainable parameters, in two groups."""
        groups = parameter_groups(module, self.lr, self.lr_vectors, self.weight_decay)
        for group in groups:
            group["adapt"] = group["name"] == "weights"
        return LARS(
            groups,
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            eta=self.eta,
            variant=self.variant,
            clip=self.clip,
        )


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Plain SGD with momentum (torch's). `lr` is the peak of the schedule."""

    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool = False

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            check_number(f"Sgd {name}", getattr(self, name))
        if self.momentum >= 1:
            raise ValueError(f"Sgd momentum is {self.momentum}: must be below 1")
        if self.nesterov and self.momentum == 0:
            raise ValueError("Sgd nesterov=True with momentum 0: needs a momentum above 0, usually 0.9")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over the module's trainable parameters, in two groups."""
        groups = parameter_groups(module, self.lr, None, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (torch's): a step decays weights by lr * weight_decay. `lr` is the peak."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay"):
            check_number(f"AdamW {name}", getattr(self, name))
        if len(self.betas) != 2:
            raise ValueError(f"AdamW betas is {self.betas}: must be two numbers, such as (0.9, 0.999)")
        for beta in self.betas:
            check_number("AdamW beta", beta)
            if beta >= 1:
                raise ValueError(f"AdamW beta is {beta}: must be below 1")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over the module's trainable parameters, in two groups."""
        groups = parameter_groups(module, self.lr, None, self.weight_decay)
        # On a CPU 0.4 of the default's time for a large token embedding. `fused` would take a tenth, but it pairs the
        # elements of a weight and its gradient wrongly where only one of them is channels_last (torch 2.15).
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, foreach=True)


def parameter_groups(
    module: nn.Module, lr: float, lr_vectors: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """Two optimiser groups, "weights" and "vectors", each with `name`, `lr`, `peak_lr` and `weight_decay`.

    Vectors are the parameters with fewer than 2 dimensions (biases, norm scales, a temperature), and those that a
    submodule names in `no_weight_decay()`: timm's ViTs name their class token and position embedding, which are offsets
    like biases, whatever their shape. They have no weight decay. Frozen parameters are in neither group.

    Raises:
        ValueError: the module has no trainable parameter.
    """
    exempt = {id(parameter) for parameter in _exempt_by_name(module)}
    weights: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            is_vector = parameter.ndim <= 1 or id(parameter) in exempt
            (vectors if is_vector else weights).append(parameter)
    if not weights and not vectors:
        raise ValueError(f"{type(module).__name__} has no parameter to train: every one is frozen, or there is none")
    if lr_vectors is None:
        lr_vectors = lr
    return [
        {"params": weights, "name": "weights", "lr": lr, "peak_lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "name": "vectors", "lr": lr_vectors, "peak_lr": lr_vectors, "weight_decay": 0.0},
    ]


def _exempt_by_name(module: nn.Module) -> Iterator[nn.Parameter]:
    for submodule in module.modules():
        names = getattr(submodule, "no_weight_decay", None)
        if callable(names):
            own = dict(submodule.named_parameters(remove_duplicate=False))
            yield from (own[name] for name in names() if name in own)  # timm lists names that a variant may lack


def describe_groups(optimizer: torch.optim.Optimizer) -> str:
    """A small aligned table, a line per group: what is excluded from decay and adaptation, and how much it is."""
    rows = [("group", "tensors", "parameters", "peak lr", "weight decay", "adaptation")]
    for group in optimizer.param_groups:
        params = group["params"]
        count = f"{sum(p.numel() for p in params):,}"
        numbers = (f"{group['peak_lr']:.6g}", f"{group['weight_decay']:.6g}")
        rows.append((group["name"], str(len(params)), count, *numbers, _adaptation(group)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        middle = (cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True))
        lines.append("  ".join((row[0].ljust(widths[0]), *middle, row[-1])))
    return "\n".join(lines)


def _adaptation(group: dict[str, Any]) -> str:
    if not group.get("adapt", False):
        return "none"
    return f"LARS ({group['variant']}), eta {group['eta']:g}{', clipped' if group['clip'] else ''}"
