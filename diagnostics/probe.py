"""All that is drawn and measured on the probe: one fixed batch, so that pictures compare over the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diagnostics.collapse import SanityLines, collapse_warning
from diagnostics.embedding_stats import embedding_statistics, matrix_statistics
from diagnostics.heatmap import heatmap_png, title
from diagnostics.pair_heatmap import check_labels
from diagnostics.pair_probe import diagnose_pairs, pairs_collapse_warning
from diagnostics.table import Table
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


class Look(NamedTuple):
    """What one look at the probe gave.

    numbers: by name, for the metrics. pictures, tables: by name; the files are in the run folder.
    warning: what has collapsed, in a line, or None.
    """

    numbers: dict[str, float]
    pictures: dict[str, Path]
    warning: str | None
    tables: dict[str, Table]


class Probe:
    """Looks at an objective through one fixed batch, in eval mode: nothing is changed by it.

    Where it embeds text, images are held against descriptions (`diagnose_pairs`), else the first two views against each
    other (`diagnose`).

    Args:
        objective: an `objectives.Objective`.
        batch: an `objectives.Batch` on its device: V >= 2 views of N >= 2 images, or one view and text.
        folder: gets the heatmaps.
        batch_size: rows of the training batch, which the sanity lines of the loss are for.
        captions: N sentences, as drawn for the batch's text. thumbnails: (N, 3, H, W) uint8, the images as seen.
            With both, some pairs are also drawn with labels.

    Raises:
        ValueError: captions or thumbnails are not N of their kind.
    """

    def __init__(
        self,
        objective: Any,
        batch: Any,
        folder: Path,
        batch_size: int,
        captions: Sequence[str] | None = None,
        thumbnails: Tensor | None = None,
    ) -> None:
        check_labels(len(batch.views[0]), captions, thumbnails)
        dtype = next(objective.parameters()).dtype
        self._objective, self._folder, self._batch_size = objective, folder, batch_size
        self._batch = batch._replace(views=tuple(view.to(dtype) for view in batch.views))
        self._captions, self._thumbnails = captions, thumbnails

    def look(self, step: int, progress: float, loss: float | None) -> Look:
        """Draws and measures; the loss's sanity lines and the scale of the similarities are among the numbers.

        Args:
            step: optimiser steps done. progress: the same in [0, 1] of the run.
            loss: of the training batch at this step, if it was read.
        """
        self._objective.eval()
        with torch.inference_mode():
            z = self._objective.embed(self._batch, progress)
        self._objective.train()
        sanity = self._objective.sanity(self._batch_size)  # anew: a learned scale moves the lines
        if "text" in z:
            seen = self._pairs(z["image"].float(), z["text"].float(), step, loss, sanity)
        else:
            seen = self._views(*(part.float() for part in list(z.values())[:2]), step, loss, sanity)
        if sanity is not None:  # lines to hold the curve of the loss against
            seen.numbers.update({f"sanity/{key}": value for key, value in sanity._asdict().items()})
        return seen

    def _views(self, a: Tensor, b: Tensor, step: int, loss: float | None, sanity: SanityLines | None) -> Look:
        numbers, pictures = diagnose(a, b, step, self._folder, self._batch.label)
        statistics = {key.removeprefix("probe/"): value for key, value in numbers.items()}
        return Look(numbers, pictures, collapse_warning(statistics, *a.shape, step, loss, sanity), {})

    def _pairs(self, image: Tensor, text: Tensor, step: int, loss: float | None, sanity: SanityLines | None) -> Look:
        group = self._batch.text.group.cpu()
        labelled = self._batch.label, self._captions, self._thumbnails
        numbers, pictures, tables = diagnose_pairs(image, text, group, step, self._folder, *labelled)
        if (log_scale := getattr(self._objective, "log_scale", None)) is not None:
            numbers["probe/image_text/scale"] = float(log_scale.detach().exp())
        warning = pairs_collapse_warning(numbers, group, image.shape[1], step, loss, sanity)
        return Look(numbers, pictures, warning, tables)
