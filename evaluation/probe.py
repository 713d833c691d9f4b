"""Linear probe and k-NN as a part of eval_linear.py: input checked first, then run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from augmentations import Center
from parallel import World
from training.recipe import describe

from .augmented import evaluation_view, prepared
from .checks import check_sets
from .command import resolve
from .features import Extractor, Pixels, unchanged
from .flags import Arguments
from .further import further_sets
from .looks import Looks, format_statistics, random_view
from .protocols import Augmented, Neighbours, Protocol
from .results import Part, result_file
from .resumable import state_folder
from .run_folder import read_run
from .subject import check_side, filled
from .subset import facts_of_sets, part_of, subset_of
from .table import PIXELS, Row, evaluate, format_table, label
from .transfer import open_transfers


def linear_probe(args: Arguments, protocol: Protocol, world: World) -> Part:
    """Returns the linear probe and k-NN, or k-NN alone, as asked for, ready to run.

    Raises:
        ValueError: bad input.
    """
    method, place = args.method, args.place
    if isinstance(protocol, Neighbours):
        method = replace(method, knn_k=protocol.k, knn_temperature=protocol.temperature)
    seeds = range(protocol.num_seeds if method.seeds is None else method.seeds)
    backbone, view, spec, root = resolve(args.subject, args.images)
    if isinstance(protocol, Augmented):
        if args.images.interpolation not in (None, protocol.test_interpolation):
            raise ValueError(f"{protocol.id} resizes {protocol.test_interpolation}: leave --interpolation out")
        view = evaluation_view(view, protocol)
    encoder, account = filled(args.subject, backbone)
    check_side(encoder, view)
    images = {"data": spec, "data_root": str(root) if root else None, "view": view}
    if subset := subset_of(args.images):
        protocol = replace(protocol, subset=subset.id)
    all_train, test_set = spec.open(root, "train"), spec.open(root, "test")
    train_set = part_of(all_train, subset)
    out = result_file(args, protocol.id, images)
    _check_writable(place.features)
    check_sets(train_set, test_set, protocol, method.knn_k, method.knn_temperature)
    further = further_sets(args.images, test_set)
    transfers = open_transfers(args.images.transfer, protocol, method)
    encoders: dict[str, torch.nn.Module] = {"pretrained": encoder}
    if args.subject.random_baseline:
        torch.manual_seed(0)
        encoders |= {"random init": backbone.build()[0], PIXELS: Pixels()}
    encoders = {name: prepared(encoder, protocol) for name, encoder in encoders.items()}

    facts = {
        "weights": account,
        "backbone": backbone,
        **images,
        **facts_of_sets(all_train, subset, train_set, test_set),
        "seeds": list(seeds),
        "further_tests": [other.facts() for other in further],
        "transfers": [other.facts() for other in transfers],
    }
    states = state_folder(out, {"protocol": protocol, **facts})
    extractor = Extractor(encoders, view, world, place.workers, place.batch_size, place.features)
    looks = Looks(extractor, train_set, test_set)
    lidar = _lidar(args, view, len(train_set))

    def compute() -> tuple[list[Row], str]:
        neighbours = method.knn_k, method.knn_temperature
        with unchanged(encoders):
            rows = evaluate(extractor, train_set, test_set, protocol, seeds, *neighbours, further, states, looks.seen)
            for number, other in enumerate(transfers):
                sets, whole = (other.train_set, other.test_set), replace(protocol, subset="")
                found = evaluate(extractor, *sets, whole, seeds, *neighbours, states=states / f"transfer{number}")
                rows += [replace(row, images=other.name) for row in found]
            if lidar:
                looks.see_views(**lidar)
        chosen = []
        for row in rows:
            if row.selected:
                edge = ", at the edge of the grid" if row.selected["lr_at_edge_of_grid"] else ""
                found = "{kind} features, lr {lr:.2g}, weight decay {weight_decay:g}: {holdout_top1:.2f} %"
                found = found.format(**row.selected)
                chosen.append(f"chosen for {label(row)} on held-out train images: {found}{edge}")
        rows = [row if row.images else replace(row, diagnostics=looks.statistics[row.encoder]) for row in rows]
        shown = format_statistics(looks.statistics)
        return rows, "\n".join([format_table(rows), "", *chosen, *([""] if chosen else []), shown])

    where = root or spec
    return Part(
        out,
        {"id": protocol.id, **describe(protocol)},
        {**facts, "lidar": lidar},
        (
            str(account),
            f"encoder: {backbone}",
            f"data: {len(train_set)} train, {len(test_set)} test images, {len(train_set.classes)} classes: {where}",
            *map(str, (*further, *transfers)),
            f"view: {view}",
            f"protocol {protocol.id}, seeds {list(seeds)}, {world.size} x {world.device}",
        ),
        compute,
        states,
        None if isinstance(protocol, Neighbours) else lambda folder: looks.draw(folder, protocol.id),
    )


def _lidar(args: Arguments, view: Center, num_train: int) -> dict[str, Any] | None:
    """Returns what `Looks.see_views` takes, or None: it is not asked for."""
    if args.shown.lidar is None:
        return None
    num_images, num_views = args.shown.lidar
    if not 2 <= num_images <= num_train or num_views < 2:
        raise ValueError(
            f"--lidar {num_images} {num_views} should be 2 to {num_train} training images and at least 2 views of each"
        )
    of_run = read_run(args.subject.run).views if args.subject.run else ()
    return {"num_images": num_images, "num_views": num_views, "view": random_view(of_run, view)}


def _check_writable(features: Path | None) -> None:
    if features is None:
        return
    try:
        features.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--features {features}: it cannot be made: {error.strerror}") from None
    if not os.access(features, os.W_OK):
        raise ValueError(f"--features {features} cannot be written: name another folder")
