"""All that is drawn and measured on the probe: one fixed batch, so that pictures compare over the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.collapse import collapse_warning
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


class Probe:
    """Looks at an objective through one fixed batch, in eval mode: nothing is changed by it.

    Args:
        objective: an `objectives.Objective`.
        batch: an `objectives.Batch` on its device: V >= 2 views of N >= 2 images.
        folder: gets the heatmaps, see `diagnose`.
        batch_size: rows of the training batch, which the sanity lines of the loss are for.
    """

    def __init__(self, objective: Any, batch: Any, folder: Path, batch_size: int) -> None:
        dtype = next(objective.parameters()).dtype
        self._objective, self._folder = objective, folder
        self._batch = batch._replace(views=tuple(view.to(dtype) for view in batch.views))
        self._sanity = objective.sanity(batch_size)

    def look(
        self, step: int, progress: float, loss: float | None
    ) -> tuple[dict[str, float], dict[str, Path], str | None]:
        """The numbers and pictures of `diagnose`, the loss's sanity lines among the numbers, and a collapse warning.

        Args:
            step: optimiser steps done. progress: the same in [0, 1] of the run.
            loss: of the training batch at this step, if it was read.
        """
        self._objective.eval()
        with torch.inference_mode():
            first, second = list(self._objective.embed(self._batch, progress).values())[:2]
        self._objective.train()
        numbers, pictures = diagnose(first.float(), second.float(), step, self._folder, self._batch.label)
        statistics = {key.removeprefix("probe/"): value for key, value in numbers.items()}
        warning = collapse_warning(statistics, *first.shape, step, loss, self._sanity)
        if self._sanity is not None:  # lines to hold the curve of the loss against
            numbers |= {f"sanity/{key}": value for key, value in self._sanity._asdict().items()}
        return numbers, pictures, warning
