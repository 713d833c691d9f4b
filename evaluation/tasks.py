"""Zero-shot classification and retrieval as parts of eval_linear.py: input checked first, then run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data import ImageSet, open_pairs
from objectives import ImageText
from parallel import World

from .command import resolve, seen_view
from .flags import Arguments
from .image_text import ImageTextRun, format_metrics, read_image_text, retrieval, zero_shot
from .prompts import class_names, templates
from .results import Part, result_file
from .table import Row


def image_text_parts(args: Arguments, world: World) -> list[Part]:
    """Returns what --zero-shot and --retrieval ask for, ready to run.

    Raises:
        ValueError: bad input.
    """
    assert args.subject.run is not None
    run = read_image_text(args.subject.run)
    objectives = {"pretrained": run.objective}
    if args.subject.random_baseline:
        torch.manual_seed(0)
        objectives["random init"] = run.build()
    parts = []
    if args.captions.zero_shot is not None:
        parts.append(_zero_shot(args, args.captions.zero_shot, run, objectives, world))
    if args.captions.retrieval is not None:
        parts.append(_retrieval(args, args.captions.retrieval, run, objectives, world))
    return parts


def _zero_shot(args: Arguments, source: str, run: ImageTextRun, objectives: dict[str, ImageText], world: World) -> Part:
    _, view, spec, root = resolve(args.subject, args.images)
    images: ImageSet = spec.open(root, "test")
    names = class_names(source, images.classes)
    sentences = templates(args.captions.templates, source)
    protocol = f"zero-shot-{len(sentences)}templates"
    seen: dict[str, Any] = {"data": spec, "data_root": str(root) if root else None, "view": view}
    seen |= {"class_names": names, "templates": sentences}

    def compute() -> tuple[list[Row], str]:
        place = args.place
        rows = zero_shot(
            objectives, run.tokenizer, images, names, sentences, view, world, place.workers, place.batch_size
        )
        return rows, format_metrics(rows)

    return Part(
        result_file(args, protocol, seen),
        {"id": protocol},
        {"weights": run.account, **seen, "num_images": len(images), "classes": images.classes},
        (
            str(run),
            f"zero-shot: {len(images)} test images, {len(names)} classes: {root or spec}",
            f"names: {source}; {len(sentences)} templates: {args.captions.templates or sentences[0]}",
            f"view: {view}, {world.device}",
        ),
        compute,
    )


def _retrieval(args: Arguments, source: str, run: ImageTextRun, objectives: dict[str, ImageText], world: World) -> Part:
    split = args.captions.split
    view = seen_view(run.view, args.images)
    pairs = open_pairs(Path(source), split, flag="--retrieval")
    seen = {"pairs": source, "split": split, "view": view}
    left_out = [
        f"{count} left out: {reason}, such as {pairs.examples[reason][0]}" for reason, count in pairs.skipped.items()
    ]

    def compute() -> tuple[list[Row], str]:
        place = args.place
        rows = retrieval(objectives, run.tokenizer, pairs, view, world, place.workers, place.batch_size)
        return rows, format_metrics(rows)

    where = f"{source}, {split}" if split else source
    return Part(
        result_file(args, f"retrieval-{split.replace('/', '-')}" if split else "retrieval", seen),
        {"id": "retrieval"},
        {
            "weights": run.account,
            **seen,
            "num_images": len(pairs),
            "num_captions": pairs.num_texts,
            "left_out": pairs.skipped,
        },
        (
            str(run),
            f"retrieval: {len(pairs)} images, {pairs.num_texts} captions: {where}",
            *left_out,
            f"view: {view}, {world.device}",
        ),
        compute,
    )
