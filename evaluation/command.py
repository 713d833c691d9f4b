"""The command line of eval_linear.py read, and what it means: networks, views and data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from .flags import DEFAULT, FINETUNE_FLAGS, NEIGHBOURS, PROBE_IMAGES, Arguments, Images, Subject

if TYPE_CHECKING:  # these import torch and timm: --help does without
    from augmentations import Center
    from models import Backbone

    from .run_folder import DataSpec


def parse(argv: Sequence[str], description: str | None) -> Arguments:
    """Returns the command line; tyro prints help, and answers wrong flags with a suggestion and exit code 2.

    Raises:
        ValueError: a number out of range, or flags that do not go together.
    """
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    args = tyro.cli(Arguments, args=list(argv), prog="eval_linear.py", description=description, config=config)
    least = {
        "seeds": (args.method.seeds, 1),
        "workers": (args.place.workers, 0),
        "batch-size": (args.place.batch_size, 1),
    }
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise ValueError(f"--{name} {value} should be at least {lowest}")
    _check_together(args)
    return args


def _check_together(args: Arguments) -> None:
    captions = args.captions
    if captions.templates is not None and captions.zero_shot is None:
        raise ValueError("--templates goes with --zero-shot: whose class names are to stand in the sentences")
    if captions.split is not None and captions.retrieval is None:
        raise ValueError(f"--split {captions.split} goes with --retrieval: the pairs of which it is a split")
    if captions.asked and args.subject.run is None:
        raise ValueError("--zero-shot and --retrieval need --run: a run of pretrain.py on images and captions")
    if args.probe is None:
        allowed = FINETUNE_FLAGS if args.method.finetune else ()
        why = (
            "not --finetune's" if allowed else f"which --zero-shot and --retrieval leave out: add --protocol {DEFAULT}"
        )
        for part, names in ((args.method, [field.name for field in fields(args.method)]), (args.images, PROBE_IMAGES)):
            default = type(part)()
            for name in names:
                if name not in allowed and getattr(part, name) != getattr(default, name):
                    raise ValueError(f"--{name.replace('_', '-')} is the probe's, {why}")
        if args.shown.lidar:
            raise ValueError(f"--lidar is the probe's, {why}")
    elif args.method.finetune:
        raise ValueError("--finetune and --protocol are two evaluations: give one, then the other")
    if args.probe in NEIGHBOURS:
        for part, names in ((args.method, ("seeds", "knn_k", "knn_temperature")), (args.images, ("test", "real"))):
            for name in names:
                if getattr(part, name) != getattr(type(part)(), name):
                    raise ValueError(
                        f"--{name.replace('_', '-')} is of no use to protocol {args.probe}: it trains no heads, and "
                        "its id tells k and temperature"
                    )
    results = [args.probe, args.method.finetune, captions.zero_shot, captions.retrieval]
    num_results = sum(asked is not None for asked in results)
    if args.place.out is not None and num_results > 1:
        raise ValueError(f"--out {args.place.out} is one file, and {num_results} results are asked for: leave it out")


def resolve(subject: Subject, images: Images) -> tuple[Backbone, Center, DataSpec, Path | None]:
    """Returns the network, the view, the data set and its folder (None: it needs none) that are meant.

    Raises:
        ValueError: neither or both of --run and --weights, a flag of the other one, or a value that does not fit.
    """
    from augmentations import PROBE_EVAL
    from data import Pairs, Shapes

    from .published import is_published, published_view
    from .run_folder import image_folder, read_run

    if (subject.run is None) == (subject.weights is None):
        raise ValueError("give one of --run (a folder of pretrain.py) and --weights (with --data)")
    if subject.run is not None:
        for field in fields(subject):
            if field.name not in ("run", "random_baseline") and getattr(subject, field.name) != field.default:
                raise ValueError(f"--{field.name.replace('_', '-')} goes with --weights: a run knows its own")
        run = read_run(subject.run)
        # A generated set has no folder, and pairs have no classes: --data then means other images.
        spec = image_folder(images.data) if isinstance(run.data, Shapes | Pairs) and images.data else run.data
        if isinstance(spec, Pairs):
            raise ValueError(
                f"--run {subject.run} was trained on image-text pairs, which have no classes: give --data, a folder of "
                "labelled images"
            )
        root = None if isinstance(spec, Shapes) else images.data or run.data_root
        return run.backbone, seen_view(run.view, images), spec, root
    assert subject.weights is not None
    if images.data is None:
        raise ValueError("--weights needs --data: the folder of the images")
    view = published_view(subject.weights) if is_published(subject.weights) else PROBE_EVAL
    return _backbone(subject, subject.weights), seen_view(view, images), image_folder(images.data), images.data


def _backbone(subject: Subject, weights: str) -> Backbone:
    """Returns the network that --backbone names, or else the weights tell."""
    from models import Backbone

    from .published import is_published, network
    from .weight_files import read
    from .weights import told_backbone

    kwargs = _json_object(subject.backbone_kwargs)
    if is_published(weights):
        if subject.backbone is not None or subject.prefix is not None:
            raise ValueError(f"--weights {weights} names its network: leave --backbone and --prefix out")
        return Backbone(network(weights), kwargs, subject.stem)
    if subject.backbone is not None:
        return Backbone(subject.backbone, kwargs, subject.stem)
    if kwargs or subject.stem != "imagenet":
        raise ValueError("--backbone-kwargs and --stem go with --backbone: the network they change")
    return told_backbone(read(Path(weights))[0], weights, subject.prefix)


def seen_view(view: Center, images: Images) -> Center:
    """Returns `view` with what the command line changes of it."""
    given = {
        name: value for name in ("size", "interpolation", "mean", "std") if (value := getattr(images, name)) is not None
    }
    if images.size is not None or images.resize is not None:
        given["resize"] = images.size if images.resize is None else images.resize
    return replace(view, **given)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"""--backbone-kwargs {text} is no JSON object such as '{{"num_heads": 12}}'""")
    return value
