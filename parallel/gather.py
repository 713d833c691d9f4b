"""Differentiable collectives.

The law they keep: *the mean over ranks of what each rank back-propagates is the gradient of the loss of the whole
batch.* What is gathered or summed is on every rank, and each of them makes the whole loss of it; so backward sums over
ranks what each wants of a value, a rank receives W times its share, and DistributedDataParallel's mean over the W ranks
takes the factor away. A raw `all_reduce` inside autograd, as in the official Barlow Twins code, gives 1/W of the
gradient instead. Losses that need only their rank's rows of a matrix are given `AllRanks` and find the same gradient.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

BUCKET = 2**23  # values in one exchange of gradients


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


class AllRanks:
    """The processes that train together, as losses see them: the `Ranks` of `losses`. Alone it is one that has all."""

    @property
    def rank(self) -> int:
        """This process's place among them."""
        return dist.get_rank() if world_size() > 1 else 0

    @property
    def size(self) -> int:
        """How many they are."""
        return world_size()

    def gather(self, x: Tensor) -> Tensor:
        """Returns the rows of all, see `gather`."""
        return gather(x)

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum over all, see `all_reduce_sum`."""
        return all_reduce_sum(x)


def average_gradients(module: nn.Module, compress: bool = False) -> None:
    """Replaces each parameter's gradient by its mean over ranks, as `World.data_parallel` does, `compress` included.

    In buckets of some 32 MB: one exchange for many small tensors, and no second copy of them all. Nothing on one
    process.
    """
    if world_size() == 1:
        return
    buckets: list[list[Tensor]] = [[]]
    for grad in (p.grad for p in module.parameters() if p.grad is not None):
        last = buckets[-1]
        if last and (last[0].dtype != grad.dtype or sum(g.numel() for g in last) >= BUCKET):
            buckets.append([])
        buckets[-1].append(grad)
    for bucket in buckets:
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        flat = (flat.bfloat16() if compress else flat) / world_size()
        dist.all_reduce(flat)
        means = flat.split([grad.numel() for grad in bucket])
        for grad, mean in zip(bucket, means, strict=True):
            grad.copy_(mean.view_as(grad))


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
