"""Numbers that say how embeddings fill their space, and how a matrix compares with the identity. Float64 inside.

All are measured on one probe batch, so they compare over steps of one run, not between probes of other sizes: RankMe
cannot exceed min(N, D), and retrieval among 64 images is easier than among 1024.
"""

import math

import torch
from torch import Tensor

from losses.matrices import cosine_similarity

RANKME_EPSILON = 1e-7  # the paper's, for float32


def embedding_statistics(a: Tensor, b: Tensor) -> dict[str, float]:
    """Every number of this file for the embeddings of two views, by name; one-view numbers are the mean over both.

    Args:
        a, b: (N, D) embeddings, row i of both from the same image; N >= 2.

    Raises:
        ValueError: the shapes differ or are not (N >= 2, D).
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) < 2:
        raise ValueError(
            f"need two (N, D) batches of the same shape, N >= 2; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    spread = [feature_std(a), feature_std(b)]
    return {
        "rankme": (rankme(a) + rankme(b)) / 2,
        "feature_std": sum(mean for mean, _ in spread) / 2,
        "feature_std_min": min(lowest for _, lowest in spread),
        "alignment": alignment(a, b),
        "uniformity": (uniformity(a) + uniformity(b)) / 2,
        "top1": matrix_statistics(cosine_similarity(a, b))["top1"],
    }


def rankme(z: Tensor) -> float:
    """The effective rank of embeddings (N, D): between 1 (a line or a point) and min(N, D) (equal singular values).

    p_k = s_k / sum(s) + 1e-7 with s the singular values; RankMe = exp(-sum p_k log p_k).

    Source: Garrido et al. 2023, arXiv 2210.02885, equations 1 and 2. The rows are taken as they are, neither centred
    nor normalised. The paper measures on 25,600 images; on a probe of N rows the value is bounded by N. NaN if an
    embedding is not finite.
    """
    z = z.detach().double()
    if not z.isfinite().all():
        return math.nan
    # The smaller Gram matrix has the squared singular values: seconds become milliseconds at D = 8192. Squaring costs
    # half the digits, 1e-8 of the largest, a tenth of the epsilon.
    gram = z @ z.T if len(z) <= z.shape[1] else z.T @ z
    s = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = s / s.sum().clamp(min=torch.finfo(torch.float64).tiny) + RANKME_EPSILON
    return float((-(p * p.log()).sum()).exp())


def feature_std(z: Tensor) -> tuple[float, float]:
    """Mean and smallest standard deviation over the D features of l2-normalised embeddings (N, D), times sqrt(D).

    1 is a sphere filled evenly, 0 a point. The mean is at most 1, and its square at most 1 minus the mean cosine
    between rows: 0.1 goes with a cosine of about 0.99 between two images' embeddings. A smallest value of 0 is a dead
    feature.

    Source: Chen and He 2021 (SimSiam), arXiv 2011.10566, section 4.1 and figure 2, there without the sqrt(D).
    """
    std = _normalised(z).std(dim=0, correction=0) * z.shape[1] ** 0.5
    return float(std.mean()), float(std.min())


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance between the l2-normalised views (N, D) of an image: 0 is invariant, 2 is unrelated.

    Source: Wang and Isola 2020, arXiv 2005.10242, section 4.1, with alpha = 2.
    """
    return float((_normalised(a) - _normalised(b)).square().sum(dim=1).mean())


def uniformity(z: Tensor) -> float:
    """log of the mean over pairs of exp(-2 distance^2) of l2-normalised embeddings (N, D).

    0 for a point, lower is wider. Orthogonal pairs give -4, and so nearly does a wide sphere filled evenly.

    Source: Wang and Isola 2020, arXiv 2005.10242, section 4.1, with t = 2, over the N(N-1)/2 pairs.
    """
    z = _normalised(z)
    row, column = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    exponents = -2 * (2 - 2 * (z @ z.T)[row, column])
    return float(exponents.logsumexp(dim=0) - math.log(len(exponents)))


def matrix_statistics(matrix: Tensor) -> dict[str, float]:
    """How near an (N, N) matrix is to the identity.

    Returns:
        diagonal: mean of the diagonal.
        off_diagonal, off_diagonal_max: mean and largest absolute value off the diagonal; 0 for N = 1.
        top1: share of rows whose largest entry is on the diagonal. Of the similarities (N, N) of two views this is
            retrieval: the fraction of images whose other view is the nearest.
    """
    assert matrix.shape == (len(matrix), len(matrix)), matrix.shape
    num = len(matrix)
    diagonal = matrix.diagonal().double()
    off = matrix.detach().abs()
    off.fill_diagonal_(0)
    return {
        "diagonal": float(diagonal.mean()),
        # By rows: one flat float32 sum over 67 million entries is off by a percent on some CPUs.
        "off_diagonal": float(off.sum(dim=1).double().sum() / max(1, num * (num - 1))),
        "off_diagonal_max": float(off.max()),
        "top1": float((matrix.argmax(dim=1) == torch.arange(num, device=matrix.device)).double().mean()),
    }


def _normalised(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z.detach().double(), dim=1)
