"""Gradients of gradients of the losses whose backward pass is explicit: by their plain form, which autograd sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def differentiable_again(
    plain: Callable[..., tuple[Tensor, ...]], gradients: tuple[Tensor, ...], *inputs: Any
) -> tuple[Tensor | None, ...]:
    """Returns the gradient of each input with a graph of its own; None for those that want none."""
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    found = iter(torch.autograd.grad(plain(*inputs), tensors, gradients, create_graph=True))
    return tuple(next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs)
