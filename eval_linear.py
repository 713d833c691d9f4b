"""Evaluate a frozen encoder: linear probe by a named protocol, and weighted k-NN.

    python eval_linear.py --run RUN --data DIR
    python eval_linear.py --weights resnet50.pth --backbone resnet50 --data IMAGENET --protocol bt-100ep

Prints a table and writes it as JSON. Exit codes: 0 done; 2 bad input, found before anything was computed or
overwritten; 74 the result was printed but could not be written.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in pretrain.py: threads that spin starve the data workers

from evaluation.command import Arguments, parse, resolve
from evaluation.protocols import Protocol, find

if TYPE_CHECKING:  # torch and timm are imported after the command line is understood: --help is instant
    from evaluation.table import Row

FORMAT = 1
BAD_INPUT_EXIT, NOT_WRITTEN_EXIT = 2, 74


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        return evaluate_linear(parse(argv, __doc__))
    except ValueError as error:
        print(f"eval_linear.py: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT_EXIT


def evaluate_linear(args: Arguments) -> int:
    """Evaluates, prints and writes; returns the exit code.

    Raises:
        ValueError: bad input; all but unreadable images and broken weights is found before an image is read.
    """
    began = time.monotonic()
    method, place = args.method, args.place
    protocol = find(method.protocol, method.epochs)
    seeds = range(protocol.num_seeds if method.seeds is None else method.seeds)

    import torch

    from evaluation.features import Pixels
    from evaluation.table import PIXELS, check_sets, evaluate, format_table
    from evaluation.weights import load
    from parallel import start_world

    backbone, view, spec, root = resolve(args.subject, args.images)
    file, prefix = weights_file(args)
    images = {"data": spec, "data_root": str(root) if root else None, "view": view}
    out = result_file(args, protocol, images)
    world = start_world(place.device)
    if world.size > 1:
        world.stop()
        raise ValueError(f"the evaluation runs in one process, {world.size} were started: leave torchrun or srun out")
    encoder, _ = backbone.build()
    account = load(encoder, file, prefix)
    train_set, test_set = spec.open(root, "train"), spec.open(root, "test")
    check_sets(train_set, test_set, method.knn_k, method.knn_temperature)

    encoders: dict[str, torch.nn.Module] = {"pretrained": encoder}
    if args.subject.random_baseline:
        torch.manual_seed(0)
        encoders |= {"random init": backbone.build()[0], PIXELS: Pixels()}
    print(account)
    where = root or spec
    print(f"data: {len(train_set)} train, {len(test_set)} test images, {len(train_set.classes)} classes: {where}")
    print(f"view: {view}")
    print(f"protocol {protocol.id}, seeds {list(seeds)}, {world.device}", flush=True)

    rows = evaluate(
        encoders,
        train_set,
        test_set,
        view,
        protocol,
        seeds,
        world.device,
        place.workers,
        batch_size=place.batch_size,
        k=method.knn_k,
        temperature=method.knn_temperature,
    )
    print(f"\n{format_table(rows)}\n")
    for row in rows:
        if row.selected:
            edge = ", at the edge of the grid" if row.selected["lr_at_edge_of_grid"] else ""
            chosen = "lr {lr:.2g}, weight decay {weight_decay:g}: {holdout_top1:.2f} %".format(**row.selected)
            print(f"chosen for {row.encoder} on held-out train images: {chosen}{edge}")

    seconds = time.monotonic() - began
    facts = {
        "weights": account,
        "backbone": backbone,
        **images,
        "num_train": len(train_set),
        "num_test": len(test_set),
        "classes": train_set.classes,
        "seeds": list(seeds),
        "device": str(world.device),
        "seconds": round(seconds, 1),
    }
    try:
        write_result(out, protocol, rows, facts)
    except OSError as error:
        print(f"eval_linear.py: {out} could not be written: {error.strerror or error}", file=sys.stderr)
        return NOT_WRITTEN_EXIT
    print(f"written to {out} after {seconds:.0f} s")
    return 0


def weights_file(args: Arguments) -> tuple[Path, str | None]:
    """Returns (the file that holds the encoder, its keys' prefix if that is known).

    A run's is the one exported at its end, before that its newest whole checkpoint.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    from training import checkpoint

    run, weights = args.subject.run, args.subject.weights
    if run is None:
        assert weights is not None
        if not weights.is_file():
            raise ValueError(f"--weights {weights}: no such file")
        return weights, args.subject.prefix
    exported = run / "encoder" / "model.safetensors"
    if exported.is_file():
        return exported, ""
    try:
        newest, _ = checkpoint.newest(run / "checkpoints")
    except checkpoint.CheckpointError as error:
        raise ValueError(str(error)) from None
    if newest is None:
        raise ValueError(f"--run {run} has neither encoder/model.safetensors nor a whole checkpoint yet")
    return newest, "encoder."


def result_file(args: Arguments, protocol: Protocol, images: dict[str, Any]) -> Path:
    """Returns where the result goes; a result on the same `images`, seen the same way, will be replaced.

    Raises:
        ValueError: not a .json file, its folder cannot be made or written, or it holds something else.
    """
    from training.recipe import describe, first_difference

    name = f"{protocol.id}.json"
    run, weights = args.subject.run, args.subject.weights
    if args.place.out is not None:
        out = args.place.out
    elif run is not None:
        out = run / "eval" / name
    else:
        assert weights is not None
        out = weights.with_name(f"{weights.name}.{name}")
    if out.suffix != ".json":
        raise ValueError(f"--out {out} should end in .json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: its folder cannot be made: {error.strerror}") from None
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise ValueError(f"{out} cannot be written: name another file with --out")
    if out.exists():
        try:
            old = json.loads(out.read_text(encoding="utf-8"))
            different = first_difference({name: old[name] for name in images}, describe(images))
        except (OSError, ValueError, KeyError, TypeError):
            different = "no result of this script"
        if different:
            raise ValueError(f"{out} holds another result ({different}): name another file with --out")
    return out


def write_result(out: Path, protocol: Protocol, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Writes the numbers and everything that makes them what they are, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is as it was.
    """
    from evaluation.table import plain_rows
    from training.atomic import write_json_atomic
    from training.recipe import describe

    packages = ("torch", "torchvision", "timm", "numpy", "pillow")
    content = {
        "format": FORMAT,
        "command": sys.argv,
        "protocol": {"id": protocol.id, **describe(protocol)},
        "rows": plain_rows(rows),
        **{name: describe(fact) for name, fact in facts.items()},
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
    }
    write_json_atomic(out, content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
