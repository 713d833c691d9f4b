"""The text tower: a Transformer over tokens, as CLIP's and SigLIP's, as a frozen spec with `build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .tokenizers import Bpe, Bytes


@dataclass(frozen=True)
class TextTransformer:
    """A Transformer with layer norms before attention and MLP, learned positions, GELU, an MLP of 4 times the width.

    | paper | layout |
    |---|---|
    | CLIP ViT-B/32, RN50 | `TextTransformer(Bpe(77), width=512, layers=12, heads=8)` |
    | SigLIP B/16 | `TextTransformer(tokenizer, 768, 12, 12, causal=False, pool="last", eps=1e-6)` |
    | a bag of words, for small sets | `TextTransformer(Bpe(32), 64, layers=0, heads=1, pool="mean")` |

    Args:
        tokenizer: gives the vocabulary and the longest row; the recipe hands it the captions.
        width: features of a token. layers: blocks, from 0 on. heads: of attention; they divide the width.
        causal: a token sees itself and those before it. Without, all see all, padding included.
        pool: the caption's feature is that of its "end" token, of the "last" position whatever stands there, or the
            "mean" over its tokens.
        eps: of the layer norms.

    Raises:
        ValueError: numbers that cannot be, or a tower that looks at padding with a tokenizer that trims it.
    Source: arXiv 2103.00020 section 2.4; open_clip transformer.py (layout and initialisation) and its model_configs
    RN50, ViT-B-32, ViT-B-16-SigLIP at 3.3.0.
    """

    tokenizer: Bytes | Bpe
    width: int
    layers: int
    heads: int
    causal: bool = True
    pool: Literal["end", "last", "mean"] = "end"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.width, self.layers + 1, self.heads) < 1 or self.width % self.heads:
            raise ValueError(
                f"text tower of width {self.width}, {self.layers} layers, {self.heads} heads: width and heads should "
                "be at least 1, layers at least 0, and the heads divide the width"
            )
        if self.pool not in ("end", "last", "mean"):
            raise ValueError(f"pool {self.pool!r} is none of 'end', 'last', 'mean'")
        if self.layers == 0 and self.pool != "mean":
            raise ValueError(f"without layers no token knows of another: pool {self.pool!r} sees one, take 'mean'")
        if self.tokenizer.trim and not (self.causal and self.pool != "last"):
            raise ValueError(
                "a text tower that is not causal, or pools the last position, looks at padding: give its tokenizer "
                "trim=False, else a caption's embedding would depend on the others of its batch"
            )

    def build(self) -> tuple[TextTower, int]:
        """Returns the module, tokens (n, L) -> (n, width), drawn from torch's default generator, and its width."""
        return TextTower(self), self.width


class TextTower(nn.Module):
    """What `TextTransformer` describes."""

    def __init__(self, spec: TextTransformer) -> None:
        super().__init__()
        width, layers = spec.width, spec.layers
        self.causal, self.pool = spec.causal, spec.pool
        self.tokens = nn.Embedding(spec.tokenizer.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(spec.tokenizer.context, width))
        blocks = [
            nn.TransformerEncoderLayer(
                width,
                spec.heads,
                dim_feedforward=4 * width,
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=spec.eps,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=spec.eps)

        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        into, out_of, mlp = width**-0.5, width**-0.5 * (2 * max(layers, 1)) ** -0.5, (2 * width) ** -0.5
        for block in blocks:
            nn.init.normal_(block.self_attn.in_proj_weight, std=into)
            nn.init.normal_(block.self_attn.out_proj.weight, std=out_of)
            nn.init.normal_(block.linear1.weight, std=mlp)
            nn.init.normal_(block.linear2.weight, std=out_of)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that are offsets, whatever their shape."""
        return {"positions"}

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the features (n, width) of tokens (n, L), L up to the tokenizer's context."""
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        mask = None
        if self.causal:
            side = tokens.shape[1]
            mask = torch.ones(side, side, dtype=torch.bool, device=tokens.device).triu_(1)  # True: not looked at
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=self.causal)
        if self.pool == "last":
            return self.norm(x[:, -1])
        if self.pool == "mean":
            real = (tokens != 0).unsqueeze(2).to(x.dtype)  # every caption has at least its end token
            return self.norm((x * real).sum(dim=1) / real.sum(dim=1))
        end = tokens.argmax(dim=1)  # the end token is the highest number of the vocabulary
        return self.norm(x[torch.arange(len(x), device=x.device), end])
