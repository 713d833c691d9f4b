"""The flags of eval_linear.py: which encoder on which images, by which protocol, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .prompts import PROMPT
from .protocols import KNN_K, KNN_TEMPERATURE, PROTOCOLS, Neighbours

DEFAULT = next(iter(PROTOCOLS))
PROBE_IMAGES = ("subset", "subset_file", "test", "real", "transfer")  # of no meaning without heads
FINETUNE_FLAGS = ("finetune", "epochs", "seeds", "subset", "subset_file")
NEIGHBOURS = tuple(name for name, protocol in PROTOCOLS.items() if isinstance(protocol, Neighbours))
_PAPERS = ", ".join(name for name in PROTOCOLS if name not in (DEFAULT, *NEIGHBOURS))
_SEEDS = f"{PROTOCOLS[DEFAULT].num_seeds} of {DEFAULT}, else 1"


def _unset(metavar: str, text: str) -> Any:
    """Describes a flag that may be left out; its text says what then holds."""
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a run of pretrain.py, or a file of weights."""

    run: Annotated[
        Path | None,
        _unset("DIR", "run folder: its encoder (while it runs, the newest checkpoint's), its view and its data set"),
    ] = None
    weights: Annotated[
        str | None,
        _unset(
            "FILE",
            "instead of --run: .safetensors, .pth, .pt or .ckpt; every key must fit, or is named as left out; also "
            "timm:NAME and torchvision:NAME, published weights through those libraries' caches",
        ),
    ] = None
    backbone: Annotated[
        str | None, _unset("NAME", "with --weights: the timm name, such as resnet50; left out: what the keys tell")
    ] = None
    stem: Annotated[
        Literal["imagenet", "cifar", "cifar-pad2", "cifar-no-relu"],
        tyro.conf.arg(
            help="with --weights: cifar is a 3x3 first convolution and no max-pool, with padding of 2 in solo-learn's, "
            "without the first ReLU in lightly's"
        ),
    ] = "imagenet"
    backbone_kwargs: Annotated[
        str, tyro.conf.arg(metavar="JSON", help="with --weights: of the timm network, such as '{\"num_heads\": 12}'")
    ] = "{}"
    prefix: Annotated[
        str | None,
        _unset(
            "TEXT",
            "with --weights: of the encoder's keys; left out: the one under which the whole encoder stands, and of two "
            "encoders the one that the file's project evaluates",
        ),
    ] = None
    random_baseline: Annotated[
        bool, tyro.conf.arg(help="beside it the same network at random initialisation, and raw pixels")
    ] = False


@dataclass(frozen=True)
class Images:
    """The labelled images, and how the encoder sees them."""

    data: Annotated[
        Path | None,
        _unset("DIR", "folder with train/ and val/ (or test/), a folder a class in each; left out: the run's own"),
    ] = None
    size: Annotated[int | None, _unset("PIXELS", "side of the square; left out: the run's, or 224")] = None
    resize: Annotated[
        int | None,
        _unset("PIXELS", "short side before the centre is cut; left out: --size if given, else the run's, or 256"),
    ] = None
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None, _unset("KIND", "of the resize; left out: the run's, or bilinear")
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None, _unset("R G B", "in 0..1; left out: the run's, or ImageNet's")
    ] = None
    std: Annotated[
        tuple[float, float, float] | None, _unset("R G B", "in 0..1; left out: the run's, or ImageNet's")
    ] = None
    subset: Annotated[
        Literal["1%", "10%"] | None,
        _unset("1%|10%", "train on a part: with --subset-file SimCLR's, else as many images of every class"),
    ] = None
    subset_file: Annotated[
        Path | None, _unset("FILE", "train on the images that FILE names, one a line: SimCLR's list, or your own")
    ] = None
    test: Annotated[
        tuple[Path, ...],
        _unset("DIR ...", "count the same heads on further test sets, too, a folder a class: ImageNet-V2, -A, -R, ..."),
    ] = ()
    real: Annotated[bool, tyro.conf.arg(help="count them by ImageNet's ReaL labels, too")] = False
    transfer: Annotated[
        tuple[Path, ...],
        _unset("DIR ...", "the same for further data, each with heads of its own: folders as --data takes them"),
    ] = ()


@dataclass(frozen=True)
class Method:
    """How it is evaluated. The protocol's id and k-NN's k and T are part of every metric's name."""

    protocol: Annotated[
        str | None,
        _unset(
            "ID",
            f"{DEFAULT}: heads on features computed once, for daily use; papers' own: {_PAPERS}; k-NN alone: "
            f"{', '.join(NEIGHBOURS)}; left out: {DEFAULT}, or with --zero-shot or --retrieval none",
        ),
    ] = None
    finetune: Annotated[
        Literal["bt", "vicreg", "simclr"] | None,
        _unset(
            "PAPER",
            "instead of a probe: train a copy of the encoder, too, with the rates of Barlow Twins', VICReg's or "
            "SimCLR's paper for --subset 1% or 10%",
        ),
    ] = None
    epochs: Annotated[
        int | None, _unset("N", "of the probe; others than the protocol's make another protocol, such as bt-10ep")
    ] = None
    seeds: Annotated[int | None, _unset("N", f"probes with other random numbers, for a spread; left out: {_SEEDS}")] = (
        None
    )
    knn_k: Annotated[int, tyro.conf.arg(metavar="K", help="neighbours that vote")] = KNN_K
    knn_temperature: Annotated[float, tyro.conf.arg(metavar="T", help="a vote weighs exp(cosine similarity / T)")] = (
        KNN_TEMPERATURE
    )


@dataclass(frozen=True)
class Captions:
    """What a run of images and captions is asked, instead of a probe unless --protocol is given, too."""

    zero_shot: Annotated[
        str | None,
        _unset(
            "CLASSNAMES",
            "classify the images of the test split by their classes' names: imagenet, or a text file of a name a line "
            "in the order of the class folders, or of <folder><tab><name>",
        ),
    ] = None
    templates: Annotated[
        Path | None,
        _unset(
            "FILE",
            "with --zero-shot: a sentence a line, {} where the name goes; left out: CLIP's 80 for imagenet, else "
            f"'{PROMPT}'",
        ),
    ] = None
    retrieval: Annotated[
        str | None,
        _unset("PAIRS", "find captions by images and images by captions: a folder, table or shards of pairs"),
    ] = None
    split: Annotated[str | None, _unset("NAME", "with --retrieval: which split of PAIRS; left out: all of it")] = None

    @property
    def asked(self) -> bool:
        """Returns whether any of it is asked."""
        return self.zero_shot is not None or self.retrieval is not None


@dataclass(frozen=True)
class Shown:
    """What is shown beside accuracies. Nothing here changes them."""

    lidar: Annotated[
        tuple[int, int] | None,
        _unset(
            "N Q",
            "LiDAR and alignment of the features, from Q random views of each of N training images: "
            "1000 50 is LiDAR's paper's",
        ),
    ] = None
    wandb: Annotated[
        Literal["off", "offline", "online"],
        tyro.conf.arg(help="mirror numbers and pictures; whatever happens to wandb, the evaluation goes on"),
    ] = "off"
    wandb_project: Annotated[str, tyro.conf.arg(metavar="NAME", help="wandb project")] = "ssl-pretraining"


@dataclass(frozen=True)
class Place:
    """Where. Nothing here changes the result but for rounding."""

    out: Annotated[
        Path | None,
        _unset(
            "FILE",
            "result as JSON; left out: RUN/eval/<protocol>.json or <weights>.<protocol>.json, where protocol is also "
            "zero-shot-<k>templates or retrieval-<split>",
        ),
    ] = None
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(help="auto takes a GPU if there is one")] = "auto"
    features: Annotated[
        Path | None,
        _unset("DIR", "keep features there, and take those that it holds of the same encoder, view and images"),
    ] = None
    workers: Annotated[int, tyro.conf.arg(metavar="N", help="processes of each rank that decode and render")] = 2
    batch_size: Annotated[
        int | None,
        _unset("N", "images of one pass through the encoder, not of the probe; left out: as suits the device"),
    ] = None


@dataclass(frozen=True)
class Arguments:
    """The whole command line."""

    subject: Subject
    images: Images
    method: Method
    captions: Captions
    shown: Shown
    place: Place

    @property
    def probe(self) -> str | None:
        """Returns the id of the linear probe's protocol, or None: no probe is asked."""
        return self.method.protocol or (None if self.captions.asked or self.method.finetune else DEFAULT)

    @property
    def folder(self) -> Path:
        """Returns a folder that all processes see: the run's, or that of --out, or of the weights."""
        if self.subject.run is not None:
            return self.subject.run
        return Path(self.place.out or self.subject.weights or "result").parent
