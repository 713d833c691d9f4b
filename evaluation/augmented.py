"""Linear heads on augmented images: the papers' protocols, one pass of the frozen encoder for all heads of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from augmentations import PROBE_TRAIN, Center, View
from data import ImageSet

from .blocks import LAST, Blocks, has_blocks, kinds_of, with_blocks
from .classifier import Classifier
from .features import Extractor, frozen
from .heads import HeadsInTraining, Labelled
from .intervals import Metric
from .linear import choose, holdout
from .protocols import Augmented, Neighbours, Protocol
from .resumable import Course, learn

WIDE = 768  # features of a transformer from which on a paper may take others


def train_view(view: Center | View, protocol: Augmented) -> View:
    """Returns the protocol's random crop and flip, at the evaluation view's size and with its channel statistics."""
    return replace(PROBE_TRAIN, size=view.size, mean=view.mean, std=view.std, interpolation=protocol.interpolation)


def evaluation_view(view: Center, protocol: Augmented) -> Center:
    """Returns the evaluation view, resized as the protocol does it."""
    return replace(view, interpolation=protocol.test_interpolation)


@dataclass(frozen=True)
class Curves:
    """How the heads did on the test split on the way, for S seeds.

    Args:
        values: S times an entry an epoch: [top-1 of each head, top-5 of each head], percent.
    """

    values: tuple[list[list[list[float]]], ...]

    def best_on_test(self) -> dict[str, Metric]:
        """Returns what papers print and is no estimate, to stand beside the last epoch's: the best epoch or head."""
        several = len(self.values[0][0][0]) > 1
        which = "head" if several else "epoch"
        return {
            f"{name}-best-{which}-on-test": Metric(
                tuple(max(curve[-1][k]) if several else max(epoch[k][0] for epoch in curve) for curve in self.values)
            )
            for k, name in enumerate(("top1", "top5"))
        }


def fit(
    encoder: nn.Module,
    extractor: Extractor,
    train_set: ImageSet,
    train: Labelled,
    test: Labelled,
    protocol: Augmented,
    seeds: Sequence[int],
    what: str,
    folder: Path | None = None,
) -> tuple[Classifier, Curves]:
    """Returns a head a seed, trained on augmented images of the training split, and how all did on the way.

    The encoder is frozen and the test view is fixed, so the test features are computed once, which the official codes
    do anew after every epoch. Where there are several heads, one is chosen on a part of every class of `train_set` that
    is not trained on, seen by the evaluation view: `train` are its features.

    Args:
        encoder: one of the extractor's.
        seeds: of the first weights, the order and the crops.
        what: the progress line's name for it.
        folder: where unfinished trainings keep their states, see `resumable.learn`.

    Raises:
        BadImage: an image cannot be read. Stopped: a signal came. ValueError: as `resumable.learn`.

    Source: see `PROTOCOLS`. docs/protocols.md says how we differ.
    """
    columns = columns_of(encoder, protocol)
    is_transformer = isinstance(encoder, Blocks) or has_blocks(encoder)
    lrs = protocol.lrs_transformer if protocol.lrs_transformer and is_transformer else protocol.lrs
    several = len(columns) * len(lrs) > 1
    held = holdout(train.y, protocol.holdout) if several else torch.zeros(len(train.y), dtype=torch.bool)
    samples = (~held).nonzero().flatten().numpy()
    num_steps = protocol.num_steps(len(samples))
    heads, curves, selected = [], [], {}
    encoder.to(extractor.device)
    for seed in seeds:
        course = Course(samples, protocol.batch_size, num_steps, protocol.epochs, protocol.whole_batches, seed)
        learner = HeadsInTraining(
            encoder, columns, lrs, len(train_set.classes), protocol, num_steps, test, extractor.device, seed
        )
        with frozen(encoder):
            curve = learn(
                learner,
                course,
                train_set,
                train_view(extractor.view, protocol),
                extractor.world,
                extractor.workers,
                extractor.rows,
                f"{what}, seed {seed}",
                folder / f"seed{seed}" if folder else None,
            )
        position = 0
        if several:
            top1, _, loss = learner.score(Labelled(train.x[held], train.y[held]))
            position = choose(top1, loss, int(held.sum()))
            kind, lr = learner.settings[position]
            selected = selected or {
                "kind": kind,
                "lr": lr,
                "weight_decay": protocol.weight_decay,
                "holdout_top1": top1[position],
                "lr_at_edge_of_grid": lr in (min(lrs), max(lrs)),
            }
        heads.append(learner.head(position))
        curves.append(curve)
    return Classifier(tuple(heads), selected), Curves(tuple(curves))


def prepared(encoder: nn.Module, protocol: Protocol) -> nn.Module:
    """Returns the encoder, giving the kinds of features that the protocol reads, if it has blocks."""
    plain = isinstance(protocol, Neighbours) or (isinstance(protocol, Augmented) and protocol.kinds == (LAST,))
    return encoder if plain else with_blocks(encoder)


def columns_of(encoder: nn.Module, protocol: Augmented) -> dict[str, slice]:
    """Returns the kinds of features that the protocol has heads on, with the columns of the encoder's output."""
    if not isinstance(encoder, Blocks):
        return {LAST: slice(None)}
    wide = protocol.wide_kinds and encoder.encoder.embed_dim >= WIDE
    known = encoder.inputs | kinds_of(encoder)
    # A network of fewer than four blocks has all of its class tokens in the last two of `inputs`.
    names = [
        kind.replace("class4", f"class{encoder.taken}") for kind in (protocol.wide_kinds if wide else protocol.kinds)
    ]
    return {name: known[name] for name in names}
