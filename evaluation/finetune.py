"""Fine-tuning: a copy of the encoder and a linear head, trained together on labelled, augmented images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import mix
from data import ImageSet
from parallel import World, average_gradients, synchronise_batch_norm
from training.recipe import describe

from .augmented import evaluation_view, train_view
from .checks import check_classes
from .command import resolve
from .features import Extractor
from .finetune_rates import Finetuned, finetuned
from .flags import Arguments
from .heads import MOMENTUM
from .intervals import Metric
from .results import Part, result_file
from .resumable import Course, learn, state_folder
from .subject import check_side, filled
from .subset import facts_of_sets, part_of, subset_of
from .table import Row, accuracies, format_table


class Network:
    """An encoder with a head, both trained: a `resumable.Learner`. `measure` gives top-1 and top-5, percent.

    BatchNorm is in training mode, as in the papers' codes, and takes its statistics over the whole batch, of all ranks.

    Args:
        encoder: (n, 3, H, W) -> (n, width); copied, it stays as it is.
        num_steps: of the training; with the protocol they give the learning rates of a step.
        extractor: how test images are seen.
        test_set: on which `measure` counts.
        seed: of the head's first weights, and of what networks draw while they train.
    """

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        protocol: Finetuned,
        num_steps: int,
        extractor: Extractor,
        test_set: ImageSet,
        seed: int,
    ) -> None:
        self.protocol, self.num_steps, self.seed = protocol, num_steps, seed
        self.world, self.test_set = extractor.world, test_set
        head = nn.utils.skip_init(nn.Linear, width, len(test_set.classes))
        first = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            head.weight.copy_(first * protocol.head.init_std)
            head.bias.zero_()
        self.model = nn.Sequential(deepcopy(encoder), head).requires_grad_().to(self.world.device)
        synchronise_batch_norm(self.model, self.world.device)
        self.rates = (protocol.lr_encoder, *protocol.head.lrs)
        groups = [{"params": part.parameters(), "lr": rate} for part, rate in zip(self.model, self.rates, strict=True)]
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=protocol.head.nesterov)
        self.extractor = replace(extractor, encoders={"fine-tuned": self.model}, dtype=torch.float32)

    def see(self, x: Tensor) -> Tensor:
        """Returns the images: a step sees all of its own at once, since BatchNorm does."""
        return x

    def step(self, seen: Sequence[Tensor], labels: Tensor, num_rows: int, step: int) -> None:
        """One step of SGD; `num_rows` are the whole batch's, of all ranks."""
        size = self.extractor.view.size
        x = torch.cat([torch.empty(0, 3, size, size, device=self.world.device), *seen])
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.protocol.head.decay(step, self.num_steps)
        torch.manual_seed(mix(self.seed, step, self.world.rank))  # dropout and drop-path: a function of the step, too
        self.model.train()
        # Its mean over the ranks, each of which has its part of the rows, is the mean over the batch.
        loss = F.cross_entropy(self.model(x).float(), labels, reduction="sum") * (self.world.size / num_rows)
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.model)
        self.optimizer.step()

    def measure(self) -> list[float]:
        """Returns top-1 and top-5 on the test split; the ranks share it."""
        top, labels = self.top()
        return [metric.mean for metric in accuracies(top, labels).values()]

    def top(self) -> tuple[Tensor, Tensor]:
        """Returns (the five classes of highest logit, highest first, (1, M, 5); labels (M,)) of the test split."""
        logits, labels = self.extractor(self.test_set)
        found = logits["fine-tuned"].topk(min(5, len(self.test_set.classes)), dim=1).indices
        return found[None], labels

    def state_dict(self) -> dict[str, Any]:
        """Returns encoder, head and what the optimiser keeps."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def finetune(
    encoder: nn.Module,
    width: int,
    extractor: Extractor,
    train_set: ImageSet,
    test_set: ImageSet,
    protocol: Finetuned,
    seeds: Sequence[int],
    what: str,
    folder: Path | None = None,
) -> Row:
    """Returns the accuracy on the test split of the network that is trained on `train_set`, by seed.

    That of the last epoch, and beside it, named so, that of the epoch which is best on the test split.

    Args:
        encoder: of `width` features; it stays as it is.
        extractor: how test images are seen; its encoders play no part.
        seeds: of the head's first weights, the order and the crops.
        what: the row's name, and the progress line's.
        folder: where unfinished trainings keep their states, see `resumable.learn`.

    Raises:
        BadImage: an image cannot be read. Stopped: a signal came. ValueError: a network that diverged, or as
            `resumable.learn`.
    """
    head, began = protocol.head, time.monotonic()
    num_steps = head.num_steps(len(train_set))
    tops, curves, labels = [], [], torch.empty(0)
    for seed in seeds:
        network = Network(encoder, width, protocol, num_steps, extractor, test_set, seed)
        samples = np.arange(len(train_set))
        curve = learn(
            network,
            Course(samples, head.batch_size, num_steps, head.epochs, head.whole_batches, seed),
            train_set,
            train_view(extractor.view, head),
            extractor.world,
            extractor.workers,
            extractor.rows,
            f"{protocol.id}, {what}, seed {seed}",
            folder / f"seed{seed}" if folder else None,
        )
        top, labels = network.top()
        tops.append(top)
        curves.append(curve)
    top = torch.cat(tops)
    found = accuracies(top, labels)
    for place, name in enumerate(("top1", "top5")):
        found[f"{name}-best-epoch-on-test"] = Metric(tuple(max(epoch[place] for epoch in curve) for curve in curves))
    named = {
        f"{protocol.id}/{name}": metric
        for name, metric in found.items()
        if "top5" not in name or len(test_set.classes) > 5
    }
    return Row(what, named, predicted=top[0, :, 0], seconds=time.monotonic() - began)


def finetuning(args: Arguments, world: World) -> Part:
    """Returns the fine-tuning that is asked for, ready to run.

    Raises:
        ValueError: bad input.
    """
    method, place = args.method, args.place
    assert method.finetune is not None
    subset = subset_of(args.images)
    part = (subset.percent, subset.id) if subset else (None, "")
    protocol = finetuned(method.finetune, *part, method.epochs)
    seeds = range(protocol.num_seeds if method.seeds is None else method.seeds)
    backbone, view, spec, root = resolve(args.subject, args.images)
    if args.images.interpolation not in (None, protocol.head.test_interpolation):
        raise ValueError(f"{protocol.id} resizes {protocol.head.test_interpolation}: leave --interpolation out")
    view = evaluation_view(view, protocol.head)
    encoder, account = filled(args.subject, backbone)
    check_side(encoder, view)
    images = {"data": spec, "data_root": str(root) if root else None, "view": view}
    all_train, test_set = spec.open(root, "train"), spec.open(root, "test")
    train_set = part_of(all_train, subset)
    out = result_file(args, protocol.id, images)
    check_classes(train_set, test_set)
    torch.manual_seed(0)
    untrained, width = backbone.build()
    encoders = {"pretrained": encoder} | ({"random init": untrained} if args.subject.random_baseline else {})
    facts = {
        "weights": account,
        "backbone": backbone,
        **images,
        **facts_of_sets(all_train, subset, train_set, test_set),
        "seeds": list(seeds),
    }
    states = state_folder(out, {"protocol": protocol, **facts})

    def compute() -> tuple[list[Row], str]:
        extractor = Extractor({}, view, world, place.workers, place.batch_size)
        sets = train_set, test_set
        rows = [
            finetune(encoder, width, extractor, *sets, protocol, seeds, name, states / name.replace(" ", "-"))
            for name, encoder in encoders.items()
        ]
        return rows, format_table(rows)

    where = root or spec
    return Part(
        out,
        {"id": protocol.id, **describe(protocol)},
        facts,
        (
            str(account),
            f"encoder: {backbone}",
            f"data: {len(train_set)} train, {len(test_set)} test images, {len(train_set.classes)} classes: {where}",
            f"view: {view}",
            f"protocol {protocol.id}, seeds {list(seeds)}, {world.size} x {world.device}",
        ),
        compute,
        states,
    )
