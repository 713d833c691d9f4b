"""Probe and k-NN of several encoders on the same images, as rows of one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from augmentations import Center
from data import ImageSet
from parallel import World

from . import knn
from .augmented import fit as fit_augmented
from .blocks import LAST, kinds_of, with_blocks
from .checks import check_labels, check_sets
from .features import ENDS, Extractor, Pixels
from .further import FurtherSet
from .heads import Labelled
from .intervals import Metric
from .linear import best_on_test, fit
from .protocols import KNN_K, KNN_TEMPERATURE, Augmented, Cached, Protocol, on_subset

PIXELS = "raw pixels"


@dataclass(frozen=True)
class Row:
    """One encoder's accuracies by name ("linear-cached/top1", "knn-k20-T0.07/top1") and what was selected for them.

    predicted: classes of the test images by the linear probe's first seed, (M,) int64, for pictures; None: no probe.
    images: the images it is about, where they are others than the test split that the result names.
    seconds: of heads and k-NN, or of fine-tuning; features, which the rows share, come before. No part of the result.
    diagnostics: statistics of its features by name ("rankme-n25600").
    """

    encoder: str
    metrics: dict[str, Metric]
    selected: dict[str, Any] = field(default_factory=dict)
    predicted: Tensor | None = field(default=None, repr=False, compare=False)
    images: str = ""
    seconds: float | None = field(default=None, compare=False)
    diagnostics: Mapping[str, float] = field(default_factory=dict, compare=False)


Look = Callable[[Row, Tensor | None, Tensor, Tensor], None]


def evaluate(
    extractor: Extractor,
    train_set: ImageSet,
    test_set: ImageSet,
    protocol: Protocol,
    seeds: Sequence[int],
    k: int = KNN_K,
    temperature: float = KNN_TEMPERATURE,
    further: Sequence[FurtherSet] = (),
    states: Path | None = None,
    look: Look | None = None,
    on_test: bool = True,
) -> list[Row]:
    """Returns a row for each encoder: linear top-1 and top-5 under the protocol's name, and k-NN top-1 or that alone.

    Under `Cached` no image or label of the test split is read before all choices are made. Top-5 is left out where
    there are five classes or fewer. Then come rows of the same heads on each of the `further` test sets, without k-NN.
    All ranks share the images, and batches of augmented ones. The rest is the main rank's: the others return no rows.

    Args:
        states: folder in which trainings on augmented images keep what they need to go on after a stop.
        look: is called with each encoder's row, the confidence (M,) of its probe's first seed (None: no probe), and
            what the encoder itself gives for both splits, (N, D) and (M, D).
        on_test: train the heads of all settings once more, for what is best on the test split under `Cached`.

    Raises:
        ValueError: as `check_sets`, or features that are not finite. BadImage: an image cannot be read.
    """
    check_sets(train_set, test_set, protocol, k, temperature)
    num_classes, device = len(train_set.classes), extractor.device
    train, labels = extractor(train_set)
    fitted, seconds = {}, dict.fromkeys(extractor.encoders, 0.0)
    with extractor.world.together(*ENDS):
        if isinstance(protocol, Cached) and extractor.world.is_main:
            for name, encoder in extractor.encoders.items():
                began = time.monotonic()
                fitted[name] = fit(train[name], labels, kinds_of(encoder), num_classes, protocol, seeds, device)
                seconds[name] = time.monotonic() - began
    check_labels("test", test_set)
    test, test_labels = extractor(test_set)
    others = [test if other.images is test_set else extractor(other.images)[0] for other in further]

    rows, classifiers = [], {}
    for name, encoder in extractor.encoders.items():
        began = time.monotonic()
        sets = Labelled(train[name], labels), Labelled(test[name], test_labels)
        classifier, beside = fitted.get(name), {}
        if isinstance(protocol, Augmented):
            folder = states / name.replace(" ", "-") if states else None
            what = f"{protocol.id}, {name}"
            classifier, curves = fit_augmented(encoder, extractor, train_set, *sets, protocol, seeds, what, folder)
            beside = curves.best_on_test()
        if not extractor.world.is_main:
            continue
        if isinstance(protocol, Cached) and on_test:
            beside = best_on_test(*sets, kinds_of(encoder), num_classes, protocol, seeds[0], device)
        named: dict[str, Metric] = {}
        selected, predicted = {}, None
        if classifier:
            top = classifier.top(test[name])
            metrics = accuracies(top, test_labels) | beside
            named = {
                f"linear-{protocol.id}/{key}": metric
                for key, metric in metrics.items()
                if "top5" not in key or num_classes > 5
            }
            selected, predicted, classifiers[name] = dict(classifier.selected), top[0, :, 0], classifier
        own = kinds_of(encoder)[LAST]
        found = knn.predict(train[name][:, own], labels, test[name][:, own], num_classes, k, temperature, device)
        neighbours = on_subset(knn.metric_name(k, temperature), protocol.subset)
        named[f"{neighbours}/top1"] = Metric.of((found == test_labels)[None])
        seconds[name] += time.monotonic() - began
        rows.append(Row(name, named, selected, predicted, seconds=seconds[name]))
        if look:
            confidence = classifier.confidence(test[name]) if classifier else None
            look(rows[-1], confidence, train[name][:, own], test[name][:, own])
    for other, features in zip(further, others, strict=True):
        for name, classifier in classifiers.items():
            found = other.accuracies(classifier, features[name])
            named = {f"linear-{protocol.id}/{key}": metric for key, metric in found.items()}
            rows.append(Row(name, named, images=other.name))
    return rows


def accuracies(top: Tensor, labels: Tensor) -> dict[str, Metric]:
    """Returns {"top1": ..., "top5": ...} of the classes that `Classifier.top` gives, (S, M, k), labels (M,)."""
    hit = top == labels[:, None]
    return {"top1": Metric.of(hit[..., 0]), "top5": Metric.of(hit.any(dim=2))}


def compare(
    encoders: Mapping[str, nn.Module],
    train_set: ImageSet,
    test_set: ImageSet,
    view: Center,
    world: World,
    workers: int,
    seed: int,
    num_seeds: int = Cached.num_seeds,
) -> list[Row]:
    """Returns the rows of the cached protocol for each encoder and for raw pixels, which any encoder should beat.

    k-NN takes fewer than 20 neighbours where the training set is smaller; the metric's name says how many. What is best
    on the test split is left out.

    Raises:
        ValueError, BadImage: as `evaluate`.
    """
    seeds = range(seed, seed + num_seeds)
    k = min(KNN_K, len(train_set))
    prepared = {name: with_blocks(encoder) for name, encoder in encoders.items()} | {PIXELS: Pixels()}
    extractor = Extractor(prepared, view, world, workers)
    return evaluate(extractor, train_set, test_set, Cached(), seeds, k=k, on_test=False)


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the rows as JSON: each metric with mean, standard deviation, values and interval; what was selected."""
    return [
        {
            "encoder": row.encoder,
            "images": row.images,
            "metrics": {
                name: {
                    "mean": metric.mean,
                    "std": metric.std,
                    "n": len(metric.values),
                    "values": list(metric.values),
                    "interval": metric.interval,
                    "num_images": metric.num_images,
                }
                for name, metric in row.metrics.items()
            },
            "selected": row.selected,
            "diagnostics": dict(row.diagnostics),
        }
        for row in rows
    ]


def label(row: Row) -> str:
    """Returns what the table calls a row: "pretrained", or "pretrained, imagenet-a" on other images."""
    return f"{row.encoder}, {row.images}" if row.images else row.encoder


def format_table(rows: Sequence[Row]) -> str:
    """Returns the rows as lines of text, a block a set of images: a line a metric, a column an encoder, and seconds."""
    blocks = [_block([row for row in rows if row.images == name]) for name in dict.fromkeys(row.images for row in rows)]
    counts = sorted({len(metric.values) for row in rows for metric in row.metrics.values()} - {1})
    spread = f"; mean ± standard deviation over {counts[-1]} seeds of the probe" if counts else ""
    images = {metric.num_images for row in rows for metric in row.metrics.values() if metric.num_images}
    drawn = f"; [95 % bootstrap over {' or '.join(map(str, sorted(images)))} test images]" if images else ""
    return "\n\n".join(blocks) + f"\naccuracy on the test split in %{spread}{drawn}"


def _block(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    cells = [[rows[0].images, *(row.encoder for row in rows)]]
    cells += [[name, *(str(row.metrics[name]) if name in row.metrics else "-" for row in rows)] for name in names]
    if any(row.seconds is not None for row in rows):
        cells.append(["seconds", *("-" if row.seconds is None else f"{row.seconds:.1f}" for row in rows)])
    return aligned(cells)


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Returns lines of text: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in cells
    )
