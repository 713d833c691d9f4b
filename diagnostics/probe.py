"""All that is drawn and measured on the probe: one fixed batch, so that pictures compare over the run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diagnostics.embedding_stats import embedding_statistics, matrix_statistics
from diagnostics.heatmap import heatmap_png, title
from losses.matrices import cosine_similarity, cross_correlation, sample_correlation


def diagnose(
    a: Tensor, b: Tensor, step: int, folder: Path, labels: Sequence[int] | Tensor | None = None
) -> tuple[dict[str, float], dict[str, Path]]:
    """Statistics and heatmaps of the embeddings of two views.

    Args:
        a, b: (N, D) embeddings, row i of both from image i of the probe; N >= 2.
        step: optimiser steps done, in the titles and in the file names.
        folder: gets `cosine_similarity/`, `cross_correlation/` and `sample_correlation/`, in each a `step_0000100.png`
            and the numbers as float16 `.npy`. A step that is repeated after a resume replaces its files.
        labels: (N,) class of each image: the rows of both N x N matrices are then ordered by class. No statistic
            depends on the order.

    Returns:
        the numbers, as `probe/rankme` and `probe/cosine_similarity/off_diagonal` (see `embedding_statistics` and
        `matrix_statistics`), and the picture of each matrix by its name.

    Raises:
        ValueError: the shapes of a and b differ or are not (N >= 2, D), or the number of labels is not N.
    """
    a, b = a.detach().float(), b.detach().float()
    numbers = {f"probe/{name}": value for name, value in embedding_statistics(a, b).items()}
    ordered = ""
    if labels is not None:
        if len(labels) != len(a):
            raise ValueError(f"{len(labels)} labels for {len(a)} embeddings")
        order = torch.as_tensor(labels).argsort(stable=True).to(a.device)
        a, b, ordered = a[order], b[order], ", ordered by class"
    matrices = {
        "cosine_similarity": (cosine_similarity(a, b), f"Cosine similarity between the views{ordered}"),
        "cross_correlation": (cross_correlation(a, b), "Cross-correlation of the features"),
        "sample_correlation": (sample_correlation(a, b), f"Correlation of the samples{ordered}"),
    }
    pictures = {}
    for name, (matrix, heading) in matrices.items():
        statistics = matrix_statistics(matrix)
        numbers |= {f"probe/{name}/{key}": value for key, value in statistics.items()}
        pictures[name] = folder / name / f"step_{step:07d}.png"
        heatmap_png(matrix, pictures[name], title(heading, step, statistics))
    return numbers, pictures
