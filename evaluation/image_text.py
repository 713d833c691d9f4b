"""Image-text networks under test: read back from a run's folder, their features, retrieval and zero-shot by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import Center
from data import ImageSet
from data.captions import Tokenizer, encode, trimmed
from data.sets import Captioned
from objectives import ImageText
from parallel import World

from . import zero_shot as classes_by_name
from .features import Extractor, frozen
from .images import progress
from .retrieval import chance, recall
from .run_folder import read_run, rebuild, weights_of
from .table import Metric, Row, aligned
from .weights import Account, load

EXPORTED = "image_text/model.safetensors"  # in the run folder: the whole objective
CHANCE = "chance"


class CaptionedSet(ImageSet, Captioned, Protocol):
    """Images with captions."""


@dataclass(frozen=True)
class ImageTextRun:
    """An image-text run, read back.

    build: makes the same networks, untrained.
    objective: with the run's weights.
    tokenizer: of the captions.
    view: how the run shows images when it is evaluated.
    account: where the weights came from.
    """

    build: Callable[[], ImageText]
    objective: ImageText
    tokenizer: Tokenizer
    view: Center
    account: Account

    def __str__(self) -> str:
        """Returns one line to print."""
        return f"weights: all {self.account.num_loaded} tensors of both towers from {self.account.file}"


def read_image_text(folder: Path) -> ImageTextRun:
    """Returns the run's networks with their weights: those of its end, while it runs the newest whole checkpoint's.

    Raises:
        ValueError: no run, one of images only, or weights that are not exactly these networks'.
    """
    run = read_run(folder)
    kind = run.objective.get("kind")
    if kind != ImageText.__name__:
        raise ValueError(
            f"--run {folder} was trained on images only (recipe {run.recipe}, {kind}): it has no text tower, which "
            "--zero-shot and --retrieval need"
        )
    try:
        parts = {name: rebuild(part) for name, part in run.objective.items() if name != "kind"}
        build: Callable[[], ImageText] = partial(ImageText, **parts)
        objective = build()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'recipe.json'} describes no networks that this version reads: {type(error).__name__}: {error}"
        ) from None
    account = load(objective, weights_of(folder, EXPORTED)[0], "")
    more = [group for group in account.left_out if group.startswith(account.prefix)]
    if more:
        raise ValueError(f"{account.file} holds more than these networks: {', '.join(more)}")
    return ImageTextRun(build, objective, parts["text"].tokenizer, run.view, account)


class _ImageTower(nn.Module):
    """(n, 3, H, W) -> (n, D): what of an objective makes image embeddings, as a module of one input."""

    def __init__(self, objective: ImageText) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, x: Tensor) -> Tensor:
        return self.objective.encode_image(x)


def image_features(
    objectives: Mapping[str, ImageText],
    image_set: ImageSet,
    view: Center,
    world: World,
    workers: int,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Returns {name: (N, D) float32 on the CPU, rows of length 1}; every image is rendered once for all objectives.

    Args:
        objectives: frozen here: mode, weights and buffers stay as they are. Moved to the device.
        world: the processes that share the images.
        batch_size: images of one forward pass, of no influence but on rounding; None: what suits the device.

    Raises:
        BadImage: an image cannot be read. ValueError: features that are not finite.
    """
    towers = {name: _ImageTower(objective) for name, objective in objectives.items()}
    extractor = Extractor(towers, view, world, workers, batch_size, dtype=torch.float32)
    return {name: F.normalize(z) for name, z in extractor(image_set)[0].items()}


def text_features(
    objective: ImageText,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    device: torch.device,
    batch_size: int | None = None,
) -> Tensor:
    """Returns (len(texts), D) float32 on the CPU, rows of length 1.

    Texts that the tokenizer makes the same go through the network once: their embeddings are equal to the bit.

    Args:
        objective, batch_size: as in `image_features`.

    Raises:
        ValueError: the tokenizer's package is missing, or features that are not finite.
    """
    tokens, group = encode(tokenizer, texts)
    different, place = group.unique(return_inverse=True)
    distinct = tokens[torch.empty(len(different), dtype=torch.int64).scatter_(0, place, torch.arange(len(texts)))]
    by_length = (distinct != 0).sum(dim=1).argsort(stable=True)  # batches of like length are trimmed the most
    batches = by_length.split(batch_size or _batch_size(device))
    features: Tensor | None = None
    objective.to(device)
    with frozen(objective):
        for rows in progress(batches, len(batches), "texts"):
            batch = trimmed(distinct[rows]) if tokenizer.trim else distinct[rows]
            z = F.normalize(objective.encode_text(batch.to(device)).float()).cpu()
            features = torch.empty(len(different), z.shape[1]) if features is None else features
            features[rows] = z
    if features is None or not bool(features.isfinite().all()):
        raise ValueError("text features are not finite: the weights are broken, or the training diverged")
    return features[place]


def retrieval(
    objectives: Mapping[str, ImageText],
    tokenizer: Tokenizer,
    pairs: CaptionedSet,
    view: Center,
    world: World,
    workers: int,
    batch_size: int | None = None,
) -> list[Row]:
    """Returns a row of `retrieval.recall` for each objective, and the row of chance.

    All captions of an image take part. Captions that differ in case and white space alone, which no tokenizer here
    sees, are equal, and so right for each other's images.

    Raises:
        BadImage: an image cannot be read. ValueError: features that are not finite.
    """
    captions = [pairs.texts(index) for index in range(len(pairs))]
    texts = [text for own in captions for text in own]
    owner = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor([len(own) for own in captions]))
    groups = [" ".join(text.lower().split()) for text in texts]
    images = image_features(objectives, pairs, view, world, workers, batch_size)
    metrics = {
        name: recall(
            images[name],
            text_features(objective, tokenizer, texts, world.device, batch_size),
            owner,
            groups,
            device=world.device,
        )
        for name, objective in objectives.items()
    }
    return _rows(metrics | {CHANCE: chance(owner, len(pairs), groups)})


def zero_shot(
    objectives: Mapping[str, ImageText],
    tokenizer: Tokenizer,
    image_set: ImageSet,
    names: Sequence[str],
    sentences: Sequence[str],
    view: Center,
    world: World,
    workers: int,
    batch_size: int | None = None,
) -> list[Row]:
    """Returns a row of `zero_shot.accuracy` for each objective, and the row of chance.

    Args:
        names: of the set's classes, in their order. sentences: with "{}" where the name goes (see `prompts`).

    Raises:
        BadImage: an image cannot be read. ValueError: features that are not finite.
    """
    labels = torch.as_tensor(image_set.labels, dtype=torch.int64)
    images = image_features(objectives, image_set, view, world, workers, batch_size)
    metrics = {}
    for name, objective in objectives.items():
        embed = partial(text_features, objective, tokenizer, device=world.device, batch_size=batch_size)
        classes = classes_by_name.class_embeddings(embed, names, sentences)
        metrics[name] = classes_by_name.accuracy(images[name], labels, classes, len(sentences), world.device)
    return _rows(metrics | {CHANCE: classes_by_name.chance(len(names), len(sentences))})


def format_metrics(rows: Sequence[Row]) -> str:
    """Returns the rows as lines of text: a line a metric, a column an encoder; names of metrics are long."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    cells = [["%", *(row.encoder for row in rows)]]
    cells += [[name, *(str(row.metrics[name]) if name in row.metrics else "-" for row in rows)] for name in names]
    return aligned(cells)


def _rows(metrics: Mapping[str, Mapping[str, float]]) -> list[Row]:
    return [Row(name, {key: Metric((value,)) for key, value in found.items()}) for name, found in metrics.items()]


def _batch_size(device: torch.device) -> int:
    return 64 if device.type == "cpu" else 256  # as in features.Extractor
