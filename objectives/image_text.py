"""Image and text: two towers and a loss that finds each image's caption among all, and each caption's image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from losses import NPairs, SigLIP
from models import Backbone, Projection, TextTransformer
from parallel import gather

from .base import FEATURES, Batch, Objective

MAX_SCALE = 100.0  # arXiv 2103.00020 section 2.5; open_clip keeps 1 to 100 for SigLIP, too


class ImageText(Objective):
    """loss(head(encoder(image)), text_head(text(caption))) on the rows of all ranks: CLIP with `NPairs`, or SigLIP.

    Captions that are equal, token by token, are positives of each other. The scale of the similarities starts where
    the loss says (1 / temperature) and is learned, kept within 1 to 100 after each step; SigLIP's bias is learned, too.

    Args:
        encoder: the image trunk, what pretraining is for.
        text: the caption's tower; its tokenizer is the recipe's.
        head: from the trunk's width to the shared D features; None: the trunk's features are the embedding.
        text_head: the same for the text tower.
        loss: of whole batches.
        learn_scale: False keeps the scale at its start.

    Raises:
        ValueError: the two towers end in different widths.
    Source: arXiv 2103.00020 figure 3; arXiv 2303.15343 algorithm 1 (SigLIP).
    """

    def __init__(
        self,
        encoder: Backbone,
        text: TextTransformer,
        head: Projection | None,
        text_head: Projection | None,
        loss: NPairs | SigLIP,
        learn_scale: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, image_width = encoder.build()
        self.text, text_width = text.build()
        self.head = head.build(image_width) if head else nn.Identity()
        self.text_head = text_head.build(text_width) if text_head else nn.Identity()
        self.width = head.width if head else image_width
        other = text_head.width if text_head else text_width
        if self.width != other:
            raise ValueError(
                f"images end in {self.width} features, captions in {other}: give both a Projection of the same width"
            )
        self.loss = loss
        self.log_scale = nn.Parameter(torch.tensor(math.log(loss.initial_scale)), requires_grad=learn_scale)
        self.bias = nn.Parameter(torch.tensor(float(loss.initial_bias))) if isinstance(loss, SigLIP) else None

    def encode_image(self, x: Tensor) -> Tensor:
        """Returns the embeddings (n, D) of images (n, 3, H, W), not normalised."""
        return self.head(self.encoder(x))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings (n, D) of captions' tokens (n, L), not normalised."""
        return self.text_head(self.text(tokens))

    def embed(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Returns {"image", "text"}, each (n, D), {"group"}, (n,) int64: equal where captions are, and the features.

        Raises:
            ValueError: a batch without captions, or with more than one view.
        """
        if batch.text is None or len(batch.views) != 1:
            raise ValueError(
                f"an image-text objective takes one view and a caption a row, not {len(batch.views)} views "
                f"{'without' if batch.text is None else 'with'} captions: give the recipe a tokenizer and one view"
            )
        features = self.encoder(batch.views[0])
        return {
            "image": self.head(features),
            "text": self.encode_text(batch.text.tokens),
            "group": batch.text.group,
            FEATURES: features.detach().unsqueeze(1),
        }

    def terms(self, z: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Returns the loss's terms on the gathered rows."""
        image, text, group = (gather(z[name]) for name in ("image", "text", "group"))
        scale = self.log_scale.exp()
        if isinstance(self.loss, SigLIP):
            return self.loss(image, text, scale, self.bias, groups=group)
        return self.loss(image, text, scale=scale, groups=group)

    def trunks(self) -> list[nn.Module]:
        """Returns both towers, but for a bag of words: it has no blocks."""
        return [self.encoder, self.text] if len(self.text.blocks) else [self.encoder]

    def watched(self) -> dict[str, Tensor]:
        """Returns the scale, and SigLIP's bias."""
        bias = {} if self.bias is None else {"bias": self.bias.detach()}
        return {"scale": self.log_scale.detach().exp(), **bias}

    def after_step(self, z: dict[str, Tensor], progress: float) -> None:
        """Keeps the scale within 1 to 100."""
        with torch.no_grad():
            self.log_scale.clamp_(0.0, math.log(MAX_SCALE))

    def sanity(self, num_rows: int) -> Any:
        """Returns the loss when collapsed, independent and perfect, for `num_rows` rows at the present scale."""
        scale = float(self.log_scale.detach().exp())
        if isinstance(self.loss, SigLIP):
            assert self.bias is not None
            return self.loss.sanity(num_rows, self.width, scale, float(self.bias.detach()))
        return self.loss.sanity(num_rows, self.width, scale)
