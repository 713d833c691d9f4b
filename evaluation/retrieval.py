"""Recall at k between images and captions, both ways: equal captions are equal answers, ties are settled by lot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RANKS = (1, 5, 10)
TIE = 1e-7  # cosine similarities of float32 features that are closer are in no order but that of rounding
CHUNK = 2**22  # similarities held at once, float64: 32 MB

WAYS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Pairing:
    """Which captions belong to which images.

    A caption is a right answer for an image if its text is that of one of the image's own captions; an image is a right
    answer for a caption if one of its own captions has that text. Where no two images share a caption this is the rule
    of the COCO and Flickr30k tables: a caption's image, and any of an image's captions.

    Args:
        owner: (M,) int64, the image of each caption, in 0 .. num_images - 1.
        group: (M,) int64, equal for equal captions, from 0 up without gaps.
        num_images: N.
    """

    owner: Tensor
    group: Tensor
    num_images: int

    @classmethod
    def of(cls, owner: Tensor, num_images: int, groups: Tensor | Sequence[str] | None = None) -> Pairing:
        """Returns the pairing.

        Args:
            owner: (M,) int64.
            groups: the captions (M texts), or a number for each, equal for equal captions; None: all differ.

        Raises:
            ValueError: an image has no caption, a caption no image, or the lengths differ.
        """
        owner = torch.as_tensor(owner, dtype=torch.int64)
        if groups is None:
            group = torch.arange(len(owner))
        elif isinstance(groups, Tensor):
            group = groups.to("cpu", torch.int64).unique(return_inverse=True)[1]
        else:
            number = {text: n for n, text in enumerate(dict.fromkeys(groups))}
            group = torch.tensor([number[text] for text in groups], dtype=torch.int64)
        if owner.ndim != 1 or group.shape != owner.shape or len(owner) == 0:
            raise ValueError(
                f"owner {tuple(owner.shape)} and groups {tuple(group.shape)} should both be (M,), one for each caption"
            )
        if int(owner.min()) < 0 or int(owner.max()) >= num_images:
            wrong = int(((owner < 0) | (owner >= num_images)).nonzero()[0])
            raise ValueError(f"caption {wrong} belongs to image {int(owner[wrong])}: there are {num_images} images")
        bare = (torch.bincount(owner, minlength=num_images) == 0).nonzero().flatten()
        if len(bare):
            raise ValueError(
                f"{len(bare)} of {num_images} images have no caption (the first is {int(bare[0])}): give each one"
            )
        return cls(owner, group, num_images)

    def right(self, way: str, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """Yields (rows of the queries, which candidates are right (n, candidates) bool), block by block.

        Queries and candidates are images and captions for "image_to_text", captions and images for "text_to_image".
        """
        images, captions = self.owner.to(device), torch.arange(len(self.owner), device=device)
        group, num_groups = self.group.to(device), int(self.group.max()) + 1
        asked, answer = (images, captions) if way == "image_to_text" else (captions, images)
        num_queries, num_candidates = self.sizes(way)
        step = max(1, CHUNK // len(self.owner))  # there are at least as many captions as images
        for start in range(0, num_queries, step):
            rows = slice(start, min(start + step, num_queries))
            inside = (asked >= rows.start) & (asked < rows.stop)
            has = torch.zeros(rows.stop - rows.start, num_groups, dtype=torch.bool, device=device)
            has[asked[inside] - rows.start, group[inside]] = True
            counts = torch.zeros(len(has), num_candidates, dtype=torch.int32, device=device)
            yield rows, counts.index_add_(1, answer, has[:, group].int()) > 0

    def sizes(self, way: str) -> tuple[int, int]:
        """Returns (queries, candidates)."""
        sizes = (self.num_images, len(self.owner))
        return sizes if way == "image_to_text" else sizes[::-1]


def recall(
    images: Tensor,
    captions: Tensor,
    owner: Tensor,
    groups: Tensor | Sequence[str] | None = None,
    ranks: Sequence[int] = RANKS,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Returns {"retrieval/image_to_text/R@1": percent, ...}: queries with a right answer among the k most similar.

    Similarity is the cosine. Of candidates that are equally similar any order is as likely, and the value is the mean
    over all of them: embeddings that are all the same score what guessing scores, `chance`. A rank that the number of
    candidates does not exceed, which everything would reach, is left out.

    Args:
        images: (N, D). captions: (M, D).
        owner: (M,) int64, the image of each caption.
        groups: the captions' texts, or numbers equal for equal captions (see `Pairing`); None: no two are equal.
        device: where it is computed; None: where the images are.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, an image without a caption.

    Source: the protocol of Karpathy and Fei-Fei, arXiv 1412.2306, section 4.2, with equal captions as above.
    """
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1] or len(captions) != len(owner):
        raise ValueError(
            f"image features {tuple(images.shape)}, caption features {tuple(captions.shape)} and owner "
            f"{tuple(owner.shape)} should be (N, D), (M, D) and (M,)"
        )
    for name, features in (("image", images), ("caption", captions)):
        if not bool(features.isfinite().all()):
            raise ValueError(f"{name} features are not finite: the weights are broken, or the training diverged")
    device = device or images.device
    pairing = Pairing.of(owner, len(images), groups)
    unit = [F.normalize(features.to(device, torch.float64)) for features in (images, captions)]
    metrics = {}
    for way in WAYS:
        asked, answers = unit if way == "image_to_text" else unit[::-1]
        kept = [k for k in ranks if k < len(answers)]
        found = torch.zeros(len(kept), dtype=torch.float64, device=device)
        for rows, right in pairing.right(way, device):
            found += hits(asked[rows] @ answers.T, right, kept).sum(dim=0)
        metrics |= {_name(way, k): 100 * value / len(asked) for k, value in zip(kept, found.tolist(), strict=True)}
    return metrics


def chance(
    owner: Tensor, num_images: int, groups: Tensor | Sequence[str] | None = None, ranks: Sequence[int] = RANKS
) -> dict[str, float]:
    """Returns `recall`'s metrics of candidates in random order, exactly, in percent.

    Among n candidates of which p are right, k drawn without replacement hold a right one with probability
    1 - (n - p choose k) / (n choose k): k / n where one is right.

    Raises:
        ValueError: as `recall`.
    """
    pairing = Pairing.of(owner, num_images, groups)
    metrics = {}
    for way in WAYS:
        num_queries, num_candidates = pairing.sizes(way)
        kept = [k for k in ranks if k < num_candidates]
        counts = torch.cat([right.sum(dim=1) for _, right in pairing.right(way, torch.device("cpu"))])
        for k in kept:
            among = torch.full_like(counts, num_candidates)
            found = _by_lot(torch.full_like(counts, k), counts, among).sum()
            metrics[_name(way, k)] = 100 * found.item() / num_queries
    return metrics


def hits(similarity: Tensor, right: Tensor, ranks: Sequence[int]) -> Tensor:
    """Returns (n, len(ranks)) float64: the probability that a right candidate is among the k most similar.

    0 or 1, but where candidates tie with the best right one, which are then ordered by lot.

    Args:
        similarity: (n, C) float64. right: (n, C) bool, at least one in a row.

    Equals this slow loop::

        for i in range(n):
            best = max(similarity[i][c] for c in range(C) if right[i][c])
            above = [c for c in range(C) if similarity[i][c] > best + TIE]
            level = [c for c in range(C) if abs(similarity[i][c] - best) <= TIE]
            orders = list(permutations(level))
            for j, k in enumerate(ranks):
                found = [any(right[i][c] for c in [*above, *order][:k]) for order in orders]
                result[i][j] = sum(found) / len(orders)
    """
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    above = (similarity > best + TIE).sum(dim=1)
    level = (similarity - best).abs() <= TIE
    among, winning = level.sum(dim=1), (level & right).sum(dim=1)
    return torch.stack([_by_lot((k - above).clamp(min=0), winning, among) for k in ranks], dim=1)


def _by_lot(drawn: Tensor, winning: Tensor, among: Tensor) -> Tensor:
    """Returns the probability that `drawn` tickets of `among`, without replacement, hold one of the `winning`."""
    drawn = torch.minimum(drawn, among).double()
    losing, among = (among - winning).double(), among.double()
    # log of (losing choose drawn) / (among choose drawn)
    missed = torch.lgamma(losing + 1) - torch.lgamma((losing - drawn).clamp(min=0) + 1)
    missed = missed - torch.lgamma(among + 1) + torch.lgamma(among - drawn + 1)
    found = torch.where(winning == 1, drawn / among, -torch.expm1(missed))  # the first is exact, and the usual case
    return torch.where(drawn > losing, 1.0, found)


def _name(way: str, k: int) -> str:
    return f"retrieval/{way}/R@{k}"
