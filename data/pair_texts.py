"""Captions: read from text or JSON, and kept as one block of bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

CAPTION_FIELDS = ("caption", "text", "title")  # looked for in this order where none is named

EMPTY = "empty caption"
NOT_UTF8 = "caption that is not UTF-8"
NOT_TEXT = "caption that is not text"
BAD_JSON = "JSON that cannot be read"
NO_FIELD = "no field of the caption"


class BadPairError(ValueError):
    """A pair that cannot be used: `reason` is as those above, `detail` what more there is to say, or ""."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class Strings:
    """Many byte strings in one block: no object each, so that millions fit and forked workers share them."""

    def __init__(self, block: bytes, ends: np.ndarray) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Strings:
        """Returns `strings` in one block."""
        strings = list(strings)
        ends = np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)))
        return cls(b"".join(strings), compact(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        return self.block[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self.ends.tolist():  # three times the speed of indexing
            yield self.block[start:end]
            start = end

    def take(self, chosen: np.ndarray) -> Strings:
        """Returns the strings where `chosen` (n,) is true."""
        return Strings.of(itertools.compress(self, chosen.tolist()))


def compact(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers, none negative, in 4 bytes each where they fit, else in 8."""
    return numbers.astype(np.uint32 if not len(numbers) or numbers.max() < 2**32 else np.int64)


def lines(text: bytes) -> list[bytes]:
    """Returns the captions of a text file: its lines without blanks around them, empty ones left out.

    Raises:
        BadPairError: none is left, or the text is not UTF-8.
    """
    return clean(_decoded(text).split("\n"))


def clean(captions: Iterable[Any]) -> list[bytes]:
    """Returns the captions as UTF-8 without blanks around them, empty ones left out.

    Raises:
        BadPairError: none is left, or one is not text.
    """
    found = []
    for caption in captions:
        if caption is None:  # as img2dataset writes a caption that is missing
            continue
        if not isinstance(caption, str):
            raise BadPairError(NOT_TEXT, f"{caption!r:.60}")
        if caption := caption.strip():
            try:
                found.append(caption.encode())
            except UnicodeEncodeError:  # half a surrogate pair: bytes of a table, or \\ud800 in JSON
                raise BadPairError(NOT_UTF8) from None
    if not found:
        raise BadPairError(EMPTY)
    return found


def of_json(text: bytes, field: str | None) -> list[bytes]:
    """Returns the captions in a JSON object: a string, or a list of strings.

    Args:
        field: its name; None takes the first of `CAPTION_FIELDS` that is there.

    Raises:
        BadPairError: no object, no such field, no text in it.
    """
    try:
        values = json.loads(_decoded(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadPairError(BAD_JSON, str(error)) from None
    if not isinstance(values, dict):
        raise BadPairError(BAD_JSON, "it is not an object {...}")
    return captions_of(values, field)


def captions_of(values: Mapping[str, Any], field: str | None) -> list[bytes]:
    """Returns the captions in a field of an object. Raises BadPairError."""
    for name in CAPTION_FIELDS if field is None else (field,):
        if name in values:
            value = values[name]
            return clean(value if isinstance(value, list) else [value])
    raise BadPairError(NO_FIELD, f"its fields: {', '.join(map(str, values))}")


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadPairError(NOT_UTF8) from None
