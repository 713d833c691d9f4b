"""Numbers of a similarity matrix (N, N) of images by descriptions: row i and column i belong together.

Equal descriptions are one group: where an image has one of them, each is right for it, and none of them counts as off
the diagonal.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_statistics(similarity: Tensor, group: Tensor) -> dict[str, float]:
    """How well images and descriptions find each other; on the CPU, in float64.

    Args:
        similarity: (N, N), images by descriptions; N >= 1.
        group: (N,) integers, equal for equal descriptions.

    Returns:
        image_to_text_top1: share of images whose most similar description is right for it.
        text_to_image_top1: share of descriptions whose most similar image is right for it.
        diagonal: mean of the diagonal.
        off_diagonal, off_diagonal_max: mean and largest absolute value over the pairs of different groups; 0 if there
            are none.

    A row or column with a value that is not a number finds nothing.
    """
    similarity, group = similarity.detach().double().cpu(), group.cpu()
    assert similarity.shape == (len(group), len(group)), (similarity.shape, group.shape)
    off = similarity[group[:, None] != group].abs()
    return {
        "image_to_text_top1": _top1(similarity, group),
        "text_to_image_top1": _top1(similarity.T, group),
        "diagonal": float(similarity.diagonal().mean()),
        "off_diagonal": float(off.mean()) if len(off) else 0.0,
        "off_diagonal_max": float(off.max()) if len(off) else 0.0,
    }


def _top1(similarity: Tensor, group: Tensor) -> float:
    found = group[similarity.argmax(dim=1)] == group
    return float((found & ~similarity.isnan().any(dim=1)).double().mean())


class HardPair(NamedTuple):
    """An image and a description of another group that is near to it.

    image, description: row and column of the similarity matrix.
    similarity: of the two. right: of the image and its own description.
    """

    image: int
    description: int
    similarity: float
    right: float


def hardest_pairs(similarity: Tensor, group: Tensor, most: int = 8) -> list[HardPair]:
    """The at most `most` pairs of different groups with the highest similarity (N, N), highest first.

    Of equal descriptions only the first is listed with an image. Pairs without a number are not listed; of equal
    similarities the first in reading order comes first.
    """
    values, group = similarity.detach().float().cpu(), group.cpu()
    known = group[:, None] == group
    repeated = known.tril(diagonal=-1).any(dim=1)
    values = values.masked_fill(known | repeated | values.isnan(), -math.inf).flatten()
    order = values.argsort(descending=True, stable=True)[:most].tolist()
    own = similarity.detach().diagonal().tolist()
    pairs = [(*divmod(position, len(group)), float(values[position])) for position in order]
    return [HardPair(i, j, value, own[i]) for i, j, value in pairs if value > -math.inf]


def modality_gap(image: Tensor, text: Tensor) -> float:
    """The distance of the centroids of l2-normalised image and text embeddings (N, D) each: 0 to 2.

    Source: Liang et al. 2022, arXiv 2203.02053: the difference of the two centroids; this is its length.
    """
    centroids = [F.normalize(z.detach().double()).mean(dim=0) for z in (image, text)]
    return float(torch.linalg.vector_norm(centroids[0] - centroids[1]))
