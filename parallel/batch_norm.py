"""BatchNorm over the rows of all ranks: torch's SyncBatchNorm on GPUs, ours on CPU, where torch has none."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .gather import all_reduce_sum, world_size


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Makes every BatchNorm inside `module` take its statistics over the whole global batch; alone, does nothing.

    Parameters and buffers keep their names, so checkpoints do not depend on the number of ranks.
    """
    if world_size() == 1:
        return
    for name, child in module.named_children():
        if device.type == "cuda":
            from timm.layers import (
                convert_sync_batchnorm,
            )  # torch's, and it knows timm's fused norm and activation layers

            setattr(module, name, convert_sync_batchnorm(child))
        else:
            for layer in child.modules():
                if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
                    # The class alone changes: the object keeps its parameters, buffers, hooks, and fused activation.
                    layer.__class__ = _synchronised(type(layer))


class _WholeBatch:
    """The forward of BatchNorm with mean and variance over all ranks, built from differentiable sums.

    Two passes (mean, then centred squares) as precise as torch's own. Ranks may hold unlike numbers of rows, or none.
    Source of the running-statistics rule: torch.nn.BatchNorm (biased variance normalises, unbiased is remembered).
    """

    def _normalise(self: _BatchNorm, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        high = x if x.dtype == torch.float64 else x.float()
        sums = all_reduce_sum(torch.cat([high.sum(axes), high.new_full((1,), x.numel() // x.shape[1])]))
        count = float(sums[-1])
        mean = sums[:-1] / count
        centred = high - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                keep = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), keep)
                self.running_var.lerp_((variance * (count / max(count - 1, 1))).to(self.running_var.dtype), keep)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)


_classes: dict[type, type] = {}


def _synchronised(base: type[_BatchNorm]) -> type:
    """Returns a subclass of `base` that normalises over all ranks where `base` would over its batch."""
    if base not in _classes:

        def forward(self: _BatchNorm, x: Tensor) -> Tensor:
            if world_size() == 1 or not (self.training or self.running_mean is None):
                return base.forward(self, x)
            y = _WholeBatch._normalise(self, x)
            # timm's BatchNormAct2d carries its activation in the same layer
            for name in ("drop", "act"):
                extra = getattr(self, name, None)
                y = extra(y) if isinstance(extra, nn.Module) else y
            return y

        _classes[base] = type(f"Synchronised{base.__name__}", (base,), {"forward": forward})
    return _classes[base]
