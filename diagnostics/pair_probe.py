"""All that is drawn and measured on the probe of an image-text run: what images and descriptions have to do with
each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from diagnostics.collapse import SanityLines, collapse_warning
from diagnostics.embedding_stats import embedding_statistics, feature_std, matrix_statistics, rankme
from diagnostics.heatmap import heatmap_png, title
from diagnostics.pair_heatmap import pair_heatmap_png, pair_title
from diagnostics.pair_stats import HardPair, hardest_pairs, modality_gap, pair_statistics
from diagnostics.table import Table, write_csv
from losses.matrices import cosine_similarity, cross_correlation

FEW_DESCRIPTIONS = 4  # fewer different ones fill so few dimensions that nothing can be said about a collapse


def diagnose_pairs(
    image: Tensor,
    text: Tensor,
    group: Tensor,
    step: int,
    folder: Path,
    labels: Sequence[int] | Tensor | None = None,
    captions: Sequence[str] | None = None,
    thumbnails: Tensor | None = None,
) -> tuple[dict[str, float], dict[str, Path], dict[str, Table]]:
    """Statistics, heatmaps and hardest pairs of the embeddings of images and their descriptions.

    Beside the similarities only the cross-correlation of the features is drawn: the correlation of the samples would
    be nearly the same picture a second time.

    Args:
        image, text: (N, D) embeddings, row i of both from pair i of the probe; N >= 2.
        group: (N,) integers, equal for equal descriptions.
        step: optimiser steps done, in the titles and in the file names.
        folder: gets `image_text/step_0000100.png`, its numbers as float16 `.npy` and the hardest pairs as `.csv`;
            `cross_correlation/`; with captions and thumbnails `image_text_labelled/`, a picture of up to 24 pairs.
        labels: (N,) class of each image: rows and columns are then ordered by class, and so are they numbered.
        captions: the N descriptions. thumbnails: (N, 3, H, W) uint8.

    Returns:
        the numbers (`probe/rankme` and others of `embedding_statistics`, two of them for each side as in
        `probe/text/rankme`; `probe/image_text/...` of `pair_statistics` and the `modality_gap`), the pictures and
        the tables, each by its name.

    Raises:
        ValueError: the shapes of image and text differ or are not (N >= 2, D), or there are not N of the others.
    """
    image, text, group = image.detach().float(), text.detach().float(), group.detach().cpu()
    statistics = embedding_statistics(image, text)
    del statistics["top1"]  # knows nothing of equal descriptions; `image_text` has it, both ways
    numbers = {f"probe/{name}": value for name, value in statistics.items()}
    for side, z in (("image", image), ("text", text)):
        numbers |= {f"probe/{side}/rankme": rankme(z), f"probe/{side}/feature_std": feature_std(z)[0]}
    heading = "Image-description similarity"
    if labels is not None:
        if len(labels) != len(image):
            raise ValueError(f"{len(labels)} labels for {len(image)} pairs")
        order = torch.as_tensor(labels).cpu().argsort(stable=True)
        image, text, group = image[order.to(image.device)], text[order.to(text.device)], group[order]
        captions = [captions[i] for i in order.tolist()] if captions is not None else None
        thumbnails = thumbnails[order.to(thumbnails.device)] if thumbnails is not None else None
        if len(set(torch.as_tensor(labels).tolist())) > 1:
            heading += ", ordered by class"

    similarity = cosine_similarity(image, text)
    found = pair_statistics(similarity, group) | {"modality_gap": modality_gap(image, text)}
    numbers |= {f"probe/image_text/{name}": value for name, value in found.items()}
    hardest = hardest_pairs(similarity, group)
    tables = {"image_text_hardest": _table(hardest, captions)}
    names = ["image_text", "cross_correlation", "image_text_labelled"]
    pictures = {name: folder / name / f"step_{step:07d}.png" for name in names}
    lines = pair_title(heading, step, found)
    heatmap_png(similarity, pictures["image_text"], lines)
    write_csv(tables["image_text_hardest"], pictures["image_text"].with_suffix(".csv"))
    if captions is not None and thumbnails is not None:
        pair_heatmap_png(similarity, pictures["image_text_labelled"], lines, captions, thumbnails, group, hardest)
    else:
        del pictures["image_text_labelled"]
    features = cross_correlation(image, text)
    measured = matrix_statistics(features)
    numbers |= {f"probe/cross_correlation/{name}": value for name, value in measured.items()}
    heading = "Cross-correlation of the features of images and descriptions"
    heatmap_png(features, pictures["cross_correlation"], title(heading, step, measured))
    return numbers, pictures, tables


def pairs_collapse_warning(
    numbers: Mapping[str, float],
    group: Tensor,
    num_features: int,
    step: int,
    loss: float | None,
    sanity: SanityLines | None,
) -> str | None:
    """The warning of `collapse_warning` for the images' embeddings, else for the descriptions', or None.

    Each side is judged alone: the mean of both would hide that one of them has collapsed.
    """
    different = len(group.unique())
    for side, num_rows in (("image", len(group)), ("text", different)):
        statistics = {name: numbers[f"probe/{side}/{name}"] for name in ("feature_std", "rankme")}
        warning = collapse_warning(statistics, num_rows, num_features, step, loss, sanity)
        if warning and different >= FEW_DESCRIPTIONS:
            return f"{warning}; of the {side} embeddings"
    return None


def _table(hardest: Sequence[HardPair], captions: Sequence[str] | None) -> Table:
    """The hardest pairs with their captions, where there are any; image and description are rows of the heatmap."""
    if captions is None:
        return Table(("image", "description", "similarity", "right_similarity"), [tuple(pair) for pair in hardest])
    columns = ("image", "image_caption", "description", "description_caption", "similarity", "right_similarity")
    rows: list[tuple[str | int | float, ...]] = [
        (pair.image, captions[pair.image], pair.description, captions[pair.description], pair.similarity, pair.right)
        for pair in hardest
    ]
    return Table(columns, rows)
