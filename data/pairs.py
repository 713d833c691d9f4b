"""Image-text pairs as a set: tar shards, folders and tables, by position. See docs/image-text-data.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from . import pair_cache
from .decode import decode
from .images import read_image
from .pair_part import Part
from .pair_sources import TAR, Reading, find_parts
from .pair_table import TABLES
from .parts import Parts
from .sets import Split

FEW = 10  # so many may be left out of any set
EXAMPLES = 3  # of what was left out, a reason


class PairSet:
    """Images with captions, by position: sources in the order they were named, within each the order of its images.

    Attributes:
        skipped: how many files or rows were left out, by reason.
        examples: the first few of them, by reason.
    """

    classes: tuple[str, ...] = ("pairs",)

    def __init__(self, parts: list[Part]) -> None:
        self.parts = Parts(parts)
        self.labels = np.zeros(len(self), dtype=np.int64)
        self.skipped: dict[str, int] = dict(Counter(s.reason for part in parts for s in part.skipped).most_common())
        self.examples: dict[str, list[str]] = {reason: [] for reason in self.skipped}
        for part in parts:
            for reason, path, detail in part.skipped:
                if len(self.examples[reason]) < EXAMPLES:
                    self.examples[reason].append(part.where(path) + (f" ({detail})" if detail else ""))

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def num_texts(self) -> int:
        """Returns the captions of all images."""
        return sum(len(part.captions) for part in self.parts.parts)

    def image(self, index: int) -> Image.Image:
        """Returns the image as 8-bit RGB. Raises BadImage."""
        return read_image(*self.parts.source(index))

    def pixels(self, index: int) -> Tensor:
        """Returns the image as uint8 (3, H, W). Raises BadImage."""
        return decode(*self.parts.source(index))

    def texts(self, index: int) -> tuple[str, ...]:
        """Returns the captions of the image, at least one."""
        part, row = self.parts.find(index)
        return tuple(text.decode() for text in part.texts(row))

    def name(self, index: int) -> str:
        """Returns what errors call the sample: its path, in a shard `SHARD.tar:PATH`."""
        return self.parts.name(index)


@dataclass(frozen=True)
class Pairs:
    """Images with captions: tar shards in webdataset's naming, a folder of the same files, or a table.

    Args:
        train: folder of the training split, in the tree or in the shards, or a table's value in the column `split`;
            or files under the root, as `cc3m-train-{0000..0575}.tar`. None takes everything.
        test: the same for the test split.
        caption: field of .json captions, or column of a table; None: .txt, else `caption`, `text` or `title`.
        image: column of a table; None: `file`, `image`, `filepath` or another usual one.
        max_skipped: share of the pairs that may be unusable before the set is refused.
    """

    train: str | None = "train"
    test: str | None = "test"
    caption: str | None = None
    image: str | None = None
    max_skipped: float = 0.1

    def open(self, root: Path | None, split: Split, cache: Path | None = None) -> PairSet:
        """Returns the set.

        Args:
            root: a .tar, a table or a folder; several with `::` between, a range of shards as `{0000..0331}`.
            cache: where the indexes of shards are kept; by default `pair_cache.cache_folder()`.

        Raises:
            ValueError: nothing there, no pairs, a split that is not there, a damaged tar, too much left out.
        """
        if root is None:
            raise ValueError("--data is missing: name the .tar shards, the folder or the table of image-text pairs")
        return open_pairs(
            root,
            self.train if split == "train" else self.test,
            caption=self.caption,
            image=self.image,
            max_skipped=self.max_skipped,
            cache=cache,
        )


def open_pairs(
    where: Path,
    split: str | None = None,
    *,
    caption: str | None = None,
    image: str | None = None,
    max_skipped: float = Pairs.max_skipped,
    cache: Path | None = None,
    flag: str = "--data",
) -> PairSet:
    """Returns the pairs of one split, or of all, at a path; arguments as for `Pairs`.

    Args:
        flag: what errors call the path.

    Raises:
        ValueError: as `Pairs.open`.
    """
    if split is not None and split.lower().endswith((TAR, *TABLES)):
        where, split = where / split, None
    try:
        reading = Reading(caption, image, max_skipped, cache or pair_cache.cache_folder())
        pairs = PairSet(find_parts(where, split, reading))
        _check(pairs, where, caption, max_skipped)
    except ValueError as error:
        raise ValueError(f"{flag} {error}") from None
    except OSError as error:
        raise ValueError(f"{flag} {error.filename or where}: {error.strerror or error}") from None
    return pairs


def _check(pairs: PairSet, where: Path, caption: str | None, max_skipped: float) -> None:
    total = sum(pairs.skipped.values())
    reasons = "; ".join(f"{reason}: {n}, such as {pairs.examples[reason][0]}" for reason, n in pairs.skipped.items())
    if not len(pairs):
        field = f" (caption={caption!r} reads .json and tables only: leave it out for .txt)" if caption else ""
        raise ValueError(f"{where}: no image-text pairs{field}. {reasons or 'It holds neither images nor captions'}")
    if total > FEW and total > max_skipped * (total + len(pairs)):
        raise ValueError(
            f"{where}: {total} left out beside {len(pairs)} pairs, more than {max_skipped:.0%}. {reasons}. Mend it, or "
            "allow more with Pairs(max_skipped=...)"
        )
