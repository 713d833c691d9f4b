"""Backbones: any timm network by name, with the CIFAR stems, and exact activation checkpointing."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Stem = Literal["imagenet", "cifar", "cifar-pad2", "cifar-no-relu"]


@dataclass(frozen=True)
class Backbone:
    """A timm network without its classifier, as a specification that `build` turns into a module.

    Args:
        name: any name `timm.list_models()` knows. timm zeroes the last BatchNorm gamma of each residual block, as the
            Barlow Twins and VICReg code asks for (`zero_init_residual=True`).
        kwargs: passed to `timm.create_model`, such as `{"num_heads": 12}` for the 12-head ViT-S of MoCo v3
            (arXiv 2104.02057, section 5.1; timm's own ViT-S has 6 heads).
        stem: "imagenet" leaves the network as it is. "cifar" makes the first convolution 3x3, stride 1, padding 1 and
            drops the max-pool (SimCLR, arXiv 2002.05709, appendix B.9). "cifar-pad2" pads by 2, so that a 32 x 32
            image gives 34 x 34 maps: solo-learn's variant (solo/methods/base.py at 9187ea3), which its CIFAR numbers
            need. "cifar-no-relu" is "cifar" without the first ReLU: what lightly's CIFAR benchmark trains, as its
            nn.Sequential of a network's children leaves out a ReLU that is a function (lightly/models/resnet.py at
            e8d317f).
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    stem: Stem = "imagenet"

    def build(self) -> tuple[nn.Module, int]:
        """Returns the module, (n, 3, H, W) -> (n, width), freshly initialised from torch's default generator, and its
        width.

        Raises:
            ValueError: timm does not know the name, does not take the arguments, or the stem does not fit the network.
        """
        import timm  # here: it takes as long to import as torch, and a command line is read without it

        if not timm.is_model(self.name):
            close = difflib.get_close_matches(self.name, timm.list_models(), n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists the names"
            raise ValueError(f"backbone {self.name!r} is not a timm model; {hint}")
        try:
            module = timm.create_model(self.name, pretrained=False, num_classes=0, **self.kwargs)
        except TypeError as error:
            raise ValueError(f"backbone {self.name!r} does not take {dict(self.kwargs)!r}: {error}") from error
        if self.stem != "imagenet":
            _cifar_stem(module, self)
        width: Any = getattr(module, "head_hidden_size", None) or module.num_features
        return module, int(width)


def _cifar_stem(module: nn.Module, spec: Backbone) -> None:
    padding = {"cifar": 1, "cifar-pad2": 2, "cifar-no-relu": 1}.get(spec.stem)
    if padding is None:
        raise ValueError(f"stem {spec.stem!r} is none of {', '.join(map(repr, get_args(Stem)))}")
    first = getattr(module, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(module, "maxpool"):
        raise ValueError(
            f"stem {spec.stem!r} needs a ResNet whose first layer is one convolution; {spec.name!r} has none: "
            "use stem='imagenet', or a plain resnet such as resnet18"
        )
    conv = nn.Conv2d(first.in_channels, first.out_channels, kernel_size=3, stride=1, padding=padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm initialises a ResNet
    module.conv1 = conv
    module.maxpool = nn.Identity()
    if spec.stem == "cifar-no-relu":
        module.act1 = nn.Identity()


def recompute_activations(module: nn.Module) -> int:
    """Makes each residual or transformer block forget its activations and recompute them in backward; returns how many.

    Gradients *and BatchNorm's running statistics* are exactly those of the plain network: while a block is recomputed
    its BatchNorm layers use the batch's statistics but do not count the batch a second time (timm's own
    `set_grad_checkpointing` does, which moves the running statistics twice a step).

    Raises:
        ValueError: the network has no blocks that we know how to find.
    """
    blocks = list(_blocks(module))
    if not blocks:
        raise ValueError(f"activation checkpointing finds no blocks in {type(module).__name__}: leave the flag out")
    for block in blocks:
        norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, norms))
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for name in ("layer1", "layer2", "layer3", "layer4", "blocks", "stages"):
        group = getattr(module, name, None)
        if isinstance(group, nn.Sequential | nn.ModuleList):
            yield from group.children()


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), uncounted(norms)


@contextmanager
def uncounted(norms: list[_BatchNorm]) -> Generator[None]:
    """Within: the layers use the batch's statistics as before, but leave the running ones as they are."""
    # Momentum 0 leaves the running statistics as they are. Without them (track_running_stats=False) BatchNorm would
    # save fewer tensors than the first time, which torch's checkpoint refuses.
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [number.clone() for _, _, number in kept if number is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, _ in kept:
            norm.momentum = momentum
        for number, count in zip((number for _, _, number in kept if number is not None), counts, strict=True):
            number.copy_(count)
