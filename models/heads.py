"""Projection heads: multi-layer perceptrons with the papers' exact bias and BatchNorm layout, and CLIP's one matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Mlp:
    """A projector as a specification: Linear-(BatchNorm)-ReLU for each hidden width, then a Linear.

    | paper | layout | source |
    |---|---|---|
    | Barlow Twins | `Mlp((8192, 8192, 8192))`: no bias anywhere | barlowtwins main.py at 8e8d284 |
    | VICReg | `Mlp((8192, 8192, 8192), hidden_bias=True)` | vicreg main_vicreg.py at 4e12602 |
    | SimCLR v2 | `Mlp((2048, 2048, 128), last_norm="scale")` | google-research/simclr model_util.py |
    | solo-learn BT, VICReg | `Mlp((2048, 2048, 2048), hidden_bias=True, last_bias=True)` | solo-learn at 9187ea3 |
    | solo-learn SimCLR | `Mlp((2048, 256), norm=False, hidden_bias=True, last_bias=True)` | solo-learn at 9187ea3 |
    | MoCo v3 ResNet | `Mlp((4096, 256), last_norm="plain")` | moco-v3 builder.py at c349e6e |

    Args:
        widths: features of every layer; the last is the embedding's width D.
        norm: BatchNorm after the hidden Linears.
        hidden_bias: bias in the hidden Linears.
        last_bias: bias in the last Linear.
        last_norm: BatchNorm after the last Linear: "affine" (scale and offset), "scale" (no offset), "plain" (neither).
    """

    widths: tuple[int, ...]
    norm: bool = True
    hidden_bias: bool = False
    last_bias: bool = False
    last_norm: Literal["none", "affine", "scale", "plain"] = "none"

    def __post_init__(self) -> None:
        if not self.widths or any(width < 1 for width in self.widths):
            raise ValueError(
                f"head widths {self.widths!r} should be one or more positive integers, such as (8192, 8192, 8192)"
            )
        if self.last_norm not in ("none", "affine", "scale", "plain"):
            raise ValueError(f"last_norm {self.last_norm!r} is none of 'none', 'affine', 'scale', 'plain'")

    def build(self, in_features: int) -> nn.Sequential:
        """Returns the module, (n, in_features) -> (n, widths[-1])."""
        layers: list[nn.Module] = []
        for width in self.widths[:-1]:
            layers.append(nn.Linear(in_features, width, bias=self.hidden_bias))
            if self.norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU(inplace=True))
            in_features = width
        layers.append(nn.Linear(in_features, self.widths[-1], bias=self.last_bias))
        if self.last_norm != "none":
            last = nn.BatchNorm1d(self.widths[-1], affine=self.last_norm != "plain")
            if self.last_norm == "scale":
                last.bias.requires_grad_(False)  # stays at its initial 0
            layers.append(last)
        return nn.Sequential(*layers)


@dataclass(frozen=True)
class Projection:
    """One matrix into the space that two towers share, drawn with standard deviation in_features ** -0.5.

    Args:
        width: features of the embedding D.
        bias: open_clip's attention pool (RN50) and SigLIP's text tower have one, its ViTs have none.

    Raises:
        ValueError: a width below 1.
    Source: arXiv 2103.00020 figure 3; open_clip transformer.py at 3.3.0 (initialisation).
    """

    width: int
    bias: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"embedding width {self.width} should be a positive integer, such as 512")

    def build(self, in_features: int) -> nn.Module:
        """Returns the module, (n, in_features) -> (n, width)."""
        layer = nn.Linear(in_features, self.width, bias=self.bias)
        nn.init.normal_(layer.weight, std=in_features**-0.5)
        if self.bias:
            nn.init.zeros_(layer.bias)
        return layer
