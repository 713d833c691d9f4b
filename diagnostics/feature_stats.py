"""Numbers that say, without a label, how an encoder's features fill their space. Float64 inside.

They are estimates from samples and depend on how many: every name in a result says it ("rankme-n25600"), so that
unlike numbers do not end up in one column. None replaces a probe: they order runs of one method, at best.
"""

import math

import torch
from torch import Tensor

from diagnostics.embedding_stats import rankme, uniformity

RANKME_ROWS = 25_600  # the paper's
UNIFORMITY_ROWS = 4096  # 8 million pairs: seconds, and the mean over pairs is then exact to three digits
ALPHA_RANKS = (4, 100)  # the authors' code
LIDAR_DELTA, LIDAR_EPSILON = 1e-4, 1e-7  # ours: the paper names neither


def feature_statistics(z: Tensor, device: torch.device | None = None) -> dict[str, float]:
    """Returns RankMe, alpha-ReQ and uniformity of features (N, D), each under a name that says of how many rows.

    Of more rows than are needed the same random ones are taken for every encoder. A number that the features do not
    have (alpha-ReQ of fewer than two eigenvalues in its range) is left out.

    Args:
        z: of any precision, in memory or mapped.
        device: where to compute; None: where the features are.
    """
    rows = _some(z, RANKME_ROWS).to(device).double()
    found = {f"rankme-n{len(rows)}": rankme(rows)}
    alpha, last = alpha_req(rows)
    found[f"alpha-req-ranks{ALPHA_RANKS[0]}-{last}-n{len(rows)}"] = alpha
    fewer = _some(rows, UNIFORMITY_ROWS)
    if len(fewer) > 1:
        found[f"uniformity-n{len(fewer)}"] = uniformity(fewer)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def view_statistics(z: Tensor) -> dict[str, float]:
    """Returns LiDAR and alignment of the features (n, q, D) of q random views of each of n images, under such names."""
    n, q, _ = z.shape
    return {f"lidar-n{n}-q{q}": lidar(z), f"alignment-n{n}-q{q}": view_alignment(z)}


def alpha_req(z: Tensor) -> tuple[float, int]:
    """Returns (alpha, the last rank of the fit): the eigenvalues of the features' covariance fall as rank ** -alpha.

    A weighted line through (log rank, log eigenvalue) over ranks 4 to 100, each with weight 1 / rank. Where there are
    fewer eigenvalues above 1e-12 of the largest the fit ends with them, and with fewer than two in the range alpha is
    NaN. Around 1 is good, the paper finds; large: few directions hold everything; small: many directions of noise.

    Args:
        z: (N, D) features.

    Source: Agrawal, Mondal, Ghosh, Richards, "alpha-ReQ", NeurIPS 2022. The paper fits "the full set" of eigenvalues;
    ranks and weights are those of its code, kumarkrishna/fastssl @641c80b scripts/train_model.py and @82fc4b5
    fastssl/utils/powerlaw.py (there from Stringer et al. 2019).
    """
    z = z.detach().double()
    z = z - z.mean(dim=0)
    gram = z @ z.T if len(z) <= z.shape[1] else z.T @ z
    eigenvalues = torch.linalg.eigvalsh(gram).flip(0).cpu()
    # the covariance of N rows has rank N - 1; what rounding leaves of zero eigenvalues is no part of the spectrum
    known = int((eigenvalues > 1e-12 * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
    first, last = ALPHA_RANKS[0], min(ALPHA_RANKS[1], known)
    if last - first < 1:
        return math.nan, last
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    x, y, weight = rank.log(), eigenvalues[first - 1 : last].log(), 1 / rank
    x, y = x - (weight * x).sum() / weight.sum(), y - (weight * y).sum() / weight.sum()
    return float(-(weight * x * y).sum() / (weight * x * x).sum()), last


def lidar(z: Tensor) -> float:
    """Returns the effective rank of what tells images apart, measured against what their views differ in.

    With mu_x the mean over an image's views, mu over images: Sigma_b = mean (mu_x - mu)(mu_x - mu)^T, Sigma_w =
    mean (z - mu_x)(z - mu_x)^T + delta I, and lambda the eigenvalues of Sigma_w^-1/2 Sigma_b Sigma_w^-1/2. With
    p = lambda / sum(lambda) + 1e-7, LiDAR = exp(-sum p log p): from 1 to min(D, n - 1).

    Args:
        z: (n, q, D), features of q views of each of n images; the paper takes n 1000, q 50, and advises n > D.

    Source: Thilak et al. 2023, arXiv 2312.04000, equations 1 to 4. It gives delta and epsilon no value. Ours is
    1e-4 of the mean variance of a feature, so that features of another scale have the same LiDAR.
    """
    z = z.detach().double()
    n, q, D = z.shape
    means = z.mean(dim=1)
    between = means - means.mean(dim=0)
    within = (z - means[:, None]).flatten(0, 1)
    if not z.isfinite().all():
        return math.nan
    variance = float((between.square().mean(dim=0) + within.square().mean(dim=0)).mean())
    delta = max(LIDAR_DELTA * variance, torch.finfo(torch.float64).tiny ** 0.5)
    sigma = within.T @ within / (n * q) + delta * torch.eye(D, dtype=z.dtype, device=z.device)
    # Sigma_w = L L^T: L^-1 Sigma_b L^-T has the eigenvalues of the symmetric form, and those of its Gram matrix.
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(sigma), between.T, upper=False)  # (D, n)
    gram = x @ x.T if n >= D else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    p = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny) + LIDAR_EPSILON
    return float((-(p * p.log()).sum()).exp())


def view_alignment(z: Tensor) -> float:
    """Returns the mean squared distance between two l2-normalised views of an image (n, q, D), over all its pairs.

    0 is invariant, 2 is unrelated.

    Source: Wang and Isola 2020, arXiv 2005.10242, section 4.1, with alpha = 2.
    """
    z = torch.nn.functional.normalize(z.detach().double(), dim=2)
    q = z.shape[1]
    # of unit vectors, the squared distances over ordered pairs sum to 2 (q^2 - |sum|^2)
    return float((2 * (q**2 - z.sum(dim=1).square().sum(dim=1)) / (q * (q - 1))).mean())


def _some(z: Tensor, most: int) -> Tensor:
    """Returns at most `most` rows of (N, D): all, or the same random ones of every N rows."""
    if len(z) <= most:
        return z
    return z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:most].sort().values]
