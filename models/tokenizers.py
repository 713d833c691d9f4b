"""Tokenizers: captions to rows of numbers, by bytes with no dependency, or by CLIP's byte pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

BYTES_END = 257  # 0 is padding, 1 to 256 are the bytes
BPE_VOCABULARY = 49408


@dataclass(frozen=True)
class Bytes:
    """The UTF-8 bytes of a caption, in lower case, runs of white space made one space. Needs no other package.

    Args:
        context: longest row, in tokens, the end token included; what is longer is cut.
        trim: rows end with the longest of the batch, not at `context`: shorter, and the same to a tower that does not
            look behind the end token.
    """

    context: int = 128
    trim: bool = True

    def __post_init__(self) -> None:
        _check_context(self.context)

    @property
    def vocab_size(self) -> int:
        """Returns the number of different tokens; the last is the end token."""
        return BYTES_END + 1

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the tokens (len(texts), context) int64: each row its bytes, the end token, then zeros."""
        rows = [[byte + 1 for byte in " ".join(text.lower().split()).encode()] for text in texts]
        return _padded(rows, self.context, BYTES_END)


@dataclass(frozen=True)
class Bpe:
    """CLIP's byte pair encoding, lower case, as open_clip implements it and keeps its vocabulary in its wheel.

    Args:
        context: longest row, in tokens, start and end included; 77 in CLIP.
        trim: as in `Bytes`.

    Source: arXiv 2103.00020 section 2.4; open_clip_torch's `SimpleTokenizer`.
    """

    context: int = 77
    trim: bool = True

    def __post_init__(self) -> None:
        _check_context(self.context)

    @property
    def vocab_size(self) -> int:
        """Returns the number of different tokens; the last is the end token."""
        return BPE_VOCABULARY

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the tokens (len(texts), context) int64: each row start, its tokens, end, then zeros.

        Raises:
            ValueError: open_clip_torch is not installed.
        """
        start, end = BPE_VOCABULARY - 2, BPE_VOCABULARY - 1
        encode = _open_clip_encode()
        return _padded([[start, *encode(text)] for text in texts], self.context, end)


def _padded(rows: list[list[int]], context: int, end: int) -> Tensor:
    tokens = torch.zeros(len(rows), context, dtype=torch.int64)
    for number, row in enumerate(rows):
        whole = [*row[: context - 1], end]
        tokens[number, : len(whole)] = torch.tensor(whole)
    return tokens


def _check_context(context: int) -> None:
    if context < 3:
        raise ValueError(f"context {context} leaves no room for a caption between start and end: at least 3 tokens")


@lru_cache(maxsize=1)
def _open_clip_encode() -> Callable[[str], list[int]]:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise ValueError(
            f"the byte pair tokenizer comes with open_clip_torch, which cannot be imported ({error}): "
            "pip install open_clip_torch, or take the byte tokenizer where the recipe has it (--tokenizer bytes)"
        ) from None
    return SimpleTokenizer().encode
