"""Differentiable collectives.

The law they keep: *the mean over ranks of what each rank back-propagates is the gradient of the loss of the whole
batch.* Every rank computes the whole loss from gathered rows; the backward of `gather` sums over ranks what each of
them wants of a row, so a rank receives W times its share, and DistributedDataParallel's mean over the W ranks takes
the factor away. A raw `all_reduce` inside autograd, as in the official Barlow Twins code, gives 1/W of the gradient
instead.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx


def world_size() -> int:
    """Returns the number of processes that train together, 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor) -> Tensor:
    """Returns the rows of every rank in rank order, (n, ...) -> (W n, ...); the gradient flows back to the rank a row
    came from.

    All ranks must hold the same number of rows. Identity on one process.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Returns the sum of `x` over ranks, on every rank; gradients are summed too. Identity on one process."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        whole = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override]
        own = grad.new_empty(grad.shape[0] // world_size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(own, grad.contiguous())
        return own


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:  # ty: ignore[incompatible-method-override]
        total = grad.clone()
        dist.all_reduce(total)
        return total
