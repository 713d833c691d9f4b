"""Several kinds of features of one transformer from one pass: its own output, and the inputs of dinov2's probes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

LAST = "last"  # the encoder's own output: what k-NN reads, and all there is of an encoder without blocks
DEEPEST = 4  # blocks whose class tokens are taken


class Blocks(nn.Module):
    """(n, 3, H, W) -> (n, D_total): class tokens of the last blocks, the last block's mean patch token, own output.

    A kind of features is a slice of the columns, see `kinds`. Class and patch tokens are after the encoder's last norm,
    registers belong to neither.

    Args:
        encoder: a vision transformer of timm with a class token, see `has_blocks`.

    Source: facebookresearch/dinov2 (b8931f7) dinov2/eval/linear.py, create_linear_input, and
    dinov2/models/vision_transformer.py, get_intermediate_layers.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.taken = min(DEEPEST, len(self.encoder.blocks))
        # Else (pooled patches, or a distillation token beside the class token) it needs columns of its own.
        self.own_is_class = encoder.global_pool == "token" and not hasattr(encoder, "dist_token")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the features of all kinds, side by side."""
        last, tokens = self.encoder.forward_intermediates(
            x, indices=self.taken, return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
        parts = [prefix[:, 0] for _, prefix in tokens]
        parts.append(tokens[-1][0].mean(dim=1))
        if not self.own_is_class:
            parts.append(self.encoder.forward_head(last))
        return torch.cat(parts, dim=1)

    @property
    def inputs(self) -> dict[str, slice]:
        """Returns dinov2's four: {"class1": columns, "class1+patches": ..., "class4": ..., "class4+patches": ...}.

        A network of fewer than four blocks has all of its class tokens in the last two, named by their number.
        """
        width, taken = self.encoder.embed_dim, self.taken
        found = {}
        for blocks in sorted({1, taken}):
            start, stop = (taken - blocks) * width, taken * width
            found |= {f"class{blocks}": slice(start, stop), f"class{blocks}+patches": slice(start, stop + width)}
        return found

    @property
    def kinds(self) -> dict[str, slice]:
        """Returns {"last": the columns of the encoder's own output} and those of `inputs` that are not the same."""
        width, taken = self.encoder.embed_dim, self.taken
        own = slice((taken - 1) * width, taken * width) if self.own_is_class else slice((taken + 1) * width, None)
        return {LAST: own} | {name: columns for name, columns in self.inputs.items() if columns != own}


def has_blocks(encoder: nn.Module) -> bool:
    """Returns whether `Blocks` can be made of it: a class token in every block, which timm's network gives out."""
    give = getattr(encoder, "forward_intermediates", None)
    if give is None or getattr(encoder, "cls_token", None) is None:
        return False
    return "return_prefix_tokens" in inspect.signature(give).parameters


def with_blocks(encoder: nn.Module) -> nn.Module:
    """Returns `Blocks` of an encoder that has them, any other as it is."""
    return Blocks(encoder) if has_blocks(encoder) else encoder


def kinds_of(encoder: nn.Module) -> dict[str, slice]:
    """Returns which columns of the encoder's output are which kind of features, {"last": all of them} if it has one."""
    return encoder.kinds if isinstance(encoder, Blocks) else {LAST: slice(None)}
