"""LARS, the layer-wise scaled SGD of the Barlow Twins, VICReg, SimCLR and BYOL recipes, over all tensors at once.

Two rules are in use under this one name; they differ in numbers, so a recipe names the one its figures come from.
`p` parameter, `g` its gradient, `wd` weight decay, `|.|` the 2-norm of one tensor:

| variant      | update                                  | trust                                                  |
|--------------|-----------------------------------------|--------------------------------------------------------|
| `paper`      | trust * (g + wd p)                      | eta |p| / |g + wd p|; 1 where a norm is 0              |
| `solo-learn` | trust * (g + wd p); g where a norm is 0 | eta |p| / (|g| + wd |p| + 1e-8); clip: min(trust/lr, 1) |

Both then do `mu = momentum * mu + update; p = p - lr * mu`. Biases and norm parameters (fewer than 2 dimensions) take
`update = g`: no decay, no trust.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

Variant = Literal["paper", "solo-learn"]

SOLO_EPS = 1e-8  # solo-learn's own constant; part of its rule, not a knob


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step on each weight tensor is scaled to the size of that tensor.

    A group may carry `adapt=False`: its parameters are treated like biases whatever their shape. All parameters of a
    group lie on one device. A step reads nothing back to the host and dispatches about 20 calls, however many tensors.
    Memory: one momentum tensor per parameter, and during a step one copy of the weights' gradients.

    Raises:
        ValueError: a negative or non-finite number, an unknown variant, `clip` with the paper's rule.

    Source: `paper`: facebookresearch/barlowtwins@8e8d284 main.py, the same in vicreg@4e12602 and moco-v3@c349e6e;
        arXiv 1708.03888 without its local decay term in the denominator. `solo-learn`: vturrisi/solo-learn@9187ea3
        solo/utils/lars.py with `exclude_bias_n_norm`. We differ: 0-dimensional parameters (a CLIP temperature) count
        as vectors here, as weights there.

    At lr = 0, the first step of our warm-up, clipped solo-learn computes min(trust / 0, 1) = min(inf, 1) = 1: nothing
    moves, but the momentum takes in the whole gradient. We do the same, written so that 0 / 0 cannot arise (its own
    warm-up starts at 3e-5, where the clip also gives 1 for any usual trust).
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        eta: float,
        variant: Variant,
        clip: bool,
    ) -> None:
        check_lars(variant, clip, lr=lr, weight_decay=weight_decay, momentum=momentum, eta=eta)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta}
        super().__init__(params, {**defaults, "variant": variant, "clip": clip, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returns, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            weights = [p for p in given if group["adapt"] and p.ndim > 1]
            vectors = [p for p in given if not (group["adapt"] and p.ndim > 1)]
            if given:
                updates = _adapted(weights, group) + [p.grad for p in vectors]
                self._descend(weights + vectors, updates, group)
        return loss

    def _descend(self, params: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if "mu" not in self.state[p]:
                self.state[p]["mu"] = torch.zeros_like(p)
        mus = [self.state[p]["mu"] for p in params]
        torch._foreach_mul_(mus, group["momentum"])
        torch._foreach_add_(mus, updates)
        torch._foreach_add_(params, mus, alpha=-group["lr"])


def _adapted(weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """trust * (g + wd p) of each weight tensor, as new tensors."""
    if not weights:
        return []
    grads = [p.grad for p in weights if p.grad is not None]
    updates = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
    p_norm = _norms(weights)
    if group["variant"] == "paper":
        trust = _paper_trust(p_norm, _norms(updates), group["eta"])
    else:
        trust = _solo_trust(p_norm, _norms(grads), group)
    torch._foreach_mul_(updates, trust.unbind())
    return updates


def _norms(tensors: list[Tensor]) -> Tensor:
    """(T,): the 2-norm of each of T tensors."""
    return torch.stack(torch._foreach_norm(tensors))


def _paper_trust(p_norm: Tensor, update_norm: Tensor, eta: float) -> Tensor:
    """(T,) from (T,), (T,)."""
    # The order of the operations is the reference's: the result is the same to the bit.
    return torch.where((p_norm > 0) & (update_norm > 0), eta * p_norm / update_norm, 1.0)


def _solo_trust(p_norm: Tensor, g_norm: Tensor, group: dict[str, Any]) -> Tensor:
    """(T,) from (T,), (T,). It multiplies g + wd p, and has to give g, without decay, where a norm is 0."""
    trust = p_norm / (g_norm + p_norm * group["weight_decay"] + SOLO_EPS) * group["eta"]
    if group["clip"]:
        trust = (trust / group["lr"]).clamp(max=1.0) if group["lr"] > 0 else torch.ones_like(trust)
    trust = torch.where(p_norm != 0, trust, 1.0)  # p = 0: g + wd p is g already
    return torch.where(g_norm != 0, trust, 0.0)  # g = 0: 0 * (wd p) is g


def check_lars(variant: str, clip: bool, **numbers: float) -> None:
    """Raises ValueError unless the rule exists and its numbers make sense."""
    for name, value in numbers.items():
        check_number(f"LARS {name}", value)
    if numbers["momentum"] >= 1:
        raise ValueError(f"LARS momentum is {numbers['momentum']}: must be below 1")
    if variant not in get_args(Variant):
        raise ValueError(f"LARS variant is {variant!r}: must be one of {', '.join(get_args(Variant))}")
    if clip and variant == "paper":
        raise ValueError('LARS clip=True: the paper\'s rule has no clip; use variant="solo-learn" or clip=False')


def check_number(name: str, value: float) -> None:
    """Raises ValueError unless the value is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}: must be a number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}: must be finite and not negative")
