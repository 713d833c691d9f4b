"""Captions on their way into a batch: which of an image's is drawn, its tokens, and which rows say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from augmentations import sample_random
from objectives import Text

from .sets import Captioned

CAPTION = 2**16  # views are numbered from 0: the draw of a caption does not move when views are added
MULTIPLE = 8  # of tokens: fewer different shapes


class Tokenizer(Protocol):
    """What makes rows of numbers of captions; padding is 0, at the end only. See `models.tokenizers`."""

    @property
    def trim(self) -> bool:
        """Whether the rows of a batch may end with the longest of them."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the tokens (len(texts), context) int64."""
        ...


def draw_caption(images: Captioned, seed: int, epoch: int, sample: int) -> str:
    """Returns one of the sample's captions: a function of (seed, epoch, sample), as its views are."""
    texts = images.texts(sample)
    return texts[int(sample_random(seed, epoch, sample, CAPTION).random() * len(texts))]


def encode(tokenizer: Tokenizer, captions: Sequence[str]) -> Text:
    """Returns the captions as tokens, and as groups: equal numbers for captions that the tokenizer makes the same."""
    tokens = tokenizer.encode(captions)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in tokens.numpy()]
    group = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
    return Text(trimmed(tokens) if tokenizer.trim else tokens, group)


def join(parts: Sequence[Text]) -> Text:
    """Returns what `encode` returns for the captions of all parts at once."""
    length = max(part.tokens.shape[1] for part in parts)
    tokens = [F.pad(part.tokens, (0, length - part.tokens.shape[1])) for part in parts]
    return Text(torch.cat(tokens), torch.cat([part.group for part in parts]))


def trimmed(tokens: Tensor) -> Tensor:
    """Returns the rows (n, L) cut to the longest of them, rounded up to a multiple of 8.

    A causal tower that pools the end token gives the same for them; on a batch of short captions it takes a part of the
    time.
    """
    longest = int((tokens != 0).sum(dim=1).max()) if len(tokens) else 0
    length = -(-max(longest, 1) // MULTIPLE) * MULTIPLE
    return tokens[:, : min(tokens.shape[1], length)].contiguous()
