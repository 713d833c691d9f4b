"""Evaluate a frozen encoder: linear probe by a named protocol, and weighted k-NN; zero-shot and retrieval by captions.

    python eval_linear.py --run RUN --data DIR
    python eval_linear.py --weights resnet50.pth --backbone resnet50 --data IMAGENET --protocol bt-100ep
    python eval_linear.py --run RUN --zero-shot imagenet --data IMAGENET --retrieval PAIRS --split test

Prints a table and writes it as JSON. Exit codes: 0 done; 2 bad input, found before anything was computed or
overwritten; 74 the result was printed but could not be written.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in pretrain.py: threads that spin starve the data workers

from evaluation.command import Arguments, parse, resolve
from evaluation.protocols import Protocol, find

if TYPE_CHECKING:  # torch and timm are imported after the command line is understood: --help is instant
    import torch

    from evaluation.results import Part
    from evaluation.table import Row

BAD_INPUT_EXIT, NOT_WRITTEN_EXIT = 2, 74


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return evaluate_all(parse(argv, __doc__))
    except ValueError as error:
        print(f"eval_linear.py: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT_EXIT


def evaluate_all(args: Arguments) -> int:
    """Evaluates what is asked for, prints and writes it; returns the exit code.

    Raises:
        ValueError: bad input; all but unreadable images and broken weights is found before an image is read.
    """
    protocol = find(args.probe, args.method.epochs) if args.probe else None

    from evaluation.results import write_result
    from parallel import start_world

    world = start_world(args.place.device)
    if world.size > 1:
        world.stop()
        raise ValueError(f"the evaluation runs in one process, {world.size} were started: leave torchrun or srun out")
    parts = [linear_probe(args, protocol, world.device)] if protocol else []
    if args.captions.asked:
        from evaluation.tasks import image_text_parts

        parts += image_text_parts(args, world.device)
    code = 0
    for part in parts:
        began = time.monotonic()
        print(*part.heading, sep="\n", flush=True)
        rows, text = part.run()
        print(f"\n{text}\n")
        seconds = time.monotonic() - began
        try:
            write_result(part, rows, device=str(world.device), seconds=round(seconds, 1))
        except OSError as error:
            print(f"eval_linear.py: {part.out} could not be written: {error.strerror or error}", file=sys.stderr)
            code = NOT_WRITTEN_EXIT
        else:
            print(f"written to {part.out} after {seconds:.0f} s", flush=True)
    return code


def linear_probe(args: Arguments, protocol: Protocol, device: torch.device) -> Part:
    """Returns the linear probe and k-NN that are asked for, ready to run.

    Raises:
        ValueError: bad input.
    """
    import torch

    from data.packed import store_of
    from evaluation.features import Pixels
    from evaluation.results import Part, result_file
    from evaluation.table import PIXELS, check_sets, evaluate, format_table
    from evaluation.weights import load
    from training.recipe import describe

    method, place = args.method, args.place
    seeds = range(protocol.num_seeds if method.seeds is None else method.seeds)
    backbone, view, spec, root = resolve(args.subject, args.images)
    file, prefix = weights_file(args)
    images = {"data": spec, "data_root": str(root) if root else None, "view": view}
    out = result_file(args, protocol.id, images)
    encoder, _ = backbone.build()
    account = load(encoder, file, prefix)
    train_set, test_set = spec.open(root, "train"), spec.open(root, "test")
    check_sets(train_set, test_set, method.knn_k, method.knn_temperature)
    encoders: dict[str, torch.nn.Module] = {"pretrained": encoder}
    if args.subject.random_baseline:
        torch.manual_seed(0)
        encoders |= {"random init": backbone.build()[0], PIXELS: Pixels()}

    def compute() -> tuple[list[Row], str]:
        rows = evaluate(
            encoders,
            train_set,
            test_set,
            view,
            protocol,
            seeds,
            device,
            place.workers,
            batch_size=place.batch_size,
            k=method.knn_k,
            temperature=method.knn_temperature,
        )
        chosen = []
        for row in rows:
            if row.selected:
                edge = ", at the edge of the grid" if row.selected["lr_at_edge_of_grid"] else ""
                found = "lr {lr:.2g}, weight decay {weight_decay:g}: {holdout_top1:.2f} %".format(**row.selected)
                chosen.append(f"chosen for {row.encoder} on held-out train images: {found}{edge}")
        return rows, "\n".join([format_table(rows), "", *chosen]).rstrip()

    where = root or spec
    return Part(
        out,
        {"id": protocol.id, **describe(protocol)},
        {
            "weights": account,
            "backbone": backbone,
            **images,
            "store": store_of(train_set),
            "num_train": len(train_set),
            "num_test": len(test_set),
            "classes": train_set.classes,
            "seeds": list(seeds),
        },
        (
            str(account),
            f"data: {len(train_set)} train, {len(test_set)} test images, {len(train_set.classes)} classes: {where}",
            f"view: {view}",
            f"protocol {protocol.id}, seeds {list(seeds)}, {device}",
        ),
        compute,
    )


def weights_file(args: Arguments) -> tuple[Path, str | None]:
    """Returns (the file that holds the encoder, its keys' prefix if that is known).

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    from evaluation.run_folder import weights_of

    run, weights = args.subject.run, args.subject.weights
    if run is None:
        assert weights is not None
        if not weights.is_file():
            raise ValueError(f"--weights {weights}: no such file")
        return weights, args.subject.prefix
    file, is_checkpoint = weights_of(run, "encoder/model.safetensors")
    return file, "encoder." if is_checkpoint else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
