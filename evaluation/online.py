"""How good the encoder is so far: a linear probe trained along with it, and k-NN now and then. Named `online/...`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augmentations import Center, normalize
from data import BadImage, ImageSet
from objectives.base import Precision, autocast
from parallel import World, all_reduce_sum

from . import knn
from .checks import check_classes
from .features import frozen
from .images import progress, rendered
from .protocols import KNN_K, KNN_TEMPERATURE

TRAIN, TEST = 10_000, 5_000  # images of the fixed subsets, at most
# Constant, as the head follows an encoder that moves. Rows of length sqrt(2) bound the curvature of softmax regression
# by 1, so that momentum 0.9 is stable below 3.8, for every encoder.
LR, MOMENTUM = 2.0, 0.9


class Online:
    """Watches an encoder while it is trained, and changes nothing of it.

    The head, a softmax regression, sees the features of the training views, each row centred and brought to length 1,
    without gradient. It takes one SGD step with each step of the run, on the mean cross-entropy over the views of the
    whole batch, whatever the number of ranks, and starts at zero: nothing is drawn.
    k-NN and the head's test accuracy are on random subsets, the same in every run on a set: up to TRAIN and TEST
    images, rendered once, held as pixels, each rank its share of them and of the work.

    Args:
        encoder: (n, 3, H, W) -> (n, D), the one in training.
        train_set, test_set: labelled images of two classes at least.
        view: how both see an image when evaluated.
        world: the processes of the run; all of them call every method.
        workers: processes of each that render, once.
        precision: of the run.

    Raises:
        ValueError: two splits whose classes differ, or an image that cannot be read.
    """

    def __init__(
        self,
        encoder: nn.Module,
        train_set: ImageSet,
        test_set: ImageSet,
        view: Center,
        world: World,
        workers: int,
        precision: Precision,
    ) -> None:
        self.num_classes = len(train_set.classes)
        self.encoder, self.view, self.world, self.precision = encoder, view, world, precision
        rows = [np.random.default_rng(0).permutation(len(s))[:n] for s, n in ((train_set, TRAIN), (test_set, TEST))]
        self.num_train, self.num_test = map(len, rows)
        self.k = min(KNN_K, self.num_train)
        check_classes(train_set, test_set)
        knn.check(self.k, KNN_TEMPERATURE, len(train_set))
        self.train, self.test = (
            _share(images, samples, view, world, workers)
            for images, samples in zip((train_set, test_set), rows, strict=True)
        )
        self.weight: Tensor | None = None  # (D + 1, C), the bias last; made when D is known
        self.velocity: Tensor | None = None
        self.counts = torch.zeros(2, dtype=torch.int64, device=world.device)  # views: right, seen

    def __str__(self) -> str:
        return f"online: k-NN of {self.num_train} train and linear probe, on {self.num_test} test images"

    @torch.no_grad()
    def update(self, features: Tensor, label: Tensor) -> None:
        """Trains the head on this rank's part of a batch: features (n, V, D) of V views, classes (n,)."""
        x = _rows(features.flatten(0, 1))
        y = label.repeat_interleave(features.shape[1])
        if self.weight is None or self.velocity is None:
            self.weight, self.velocity = (x.new_zeros(x.shape[1], self.num_classes) for _ in range(2))
        z = x @ self.weight
        right = (z.argmax(dim=1) == y).sum()  # as guessed before these labels are learned from
        self.counts += all_reduce_sum(torch.stack([right, torch.full_like(right, len(y))]))
        gradient = x.T @ (z.softmax(dim=1) - F.one_hot(y, self.num_classes)) / len(x)
        self.velocity.mul_(MOMENTUM).add_(all_reduce_sum(gradient), alpha=1 / self.world.size)
        self.weight.add_(self.velocity, alpha=-LR)

    def evaluate(self) -> dict[str, float]:
        """Returns percentages by name.

        `online/train_top1`: right guesses of the head among the training views since the last call. `online/top1`: of
        the test images. `online/knn-k20-T0.07/top1`: of k-NN among the training images, on the same.
        """
        found: dict[str, float] = {}
        right, seen = self.counts.tolist()
        if seen:
            found["online/train_top1"] = 100 * right / seen
        self.counts.zero_()
        parts = self.world.collect((self._features(self.train[0]), self.train[1]))
        bank, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        test, answers = self._features(self.test[0]), self.test[1]
        name = f"online/{knn.metric_name(self.k, KNN_TEMPERATURE)}/top1"
        where = self.world.device
        guesses = {name: knn.predict(bank, labels, test, self.num_classes, self.k, KNN_TEMPERATURE, where)}
        if self.weight is not None:
            guesses["online/top1"] = (_rows(test.to(self.weight)) @ self.weight).argmax(dim=1).cpu()
        for key, guess in guesses.items():
            found[key] = 100 * sum(self.world.collect(int((guess == answers).sum()))) / self.num_test
        return found

    def state_dict(self) -> dict[str, Tensor | None]:
        """Returns what a checkpoint keeps."""
        return {"weight": self.weight, "velocity": self.velocity, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        """Goes on from `state_dict`."""
        on_device = {name: value.to(self.world.device) for name, value in state.items() if value is not None}
        self.weight, self.velocity = on_device.get("weight"), on_device.get("velocity")
        self.counts = on_device["counts"]

    def _features(self, pixels: Tensor) -> Tensor:
        """Returns the features (n, D) float32, on the CPU, of images (n, 3, S, S) uint8."""
        dtype = next(self.encoder.parameters()).dtype
        found = []
        with frozen(self.encoder), autocast(self.world.device, self.precision):
            for part in pixels.split(64 if self.world.device.type == "cpu" else 256):
                x = normalize(part.to(self.world.device, non_blocking=True), self.view.mean, self.view.std)
                found.append(self.encoder(x.to(dtype, memory_format=torch.channels_last)).float().cpu())
        return torch.cat(found)


def _rows(features: Tensor) -> Tensor:
    """Returns features (n, D), each row centred and brought to length 1, and a 1 for the bias: (n, D + 1)."""
    return F.pad(F.normalize(features - features.mean(dim=1, keepdim=True)), (0, 1), value=1.0)


def _share(images: ImageSet, samples: np.ndarray, view: Center, world: World, workers: int) -> tuple[Tensor, Tensor]:
    """Returns this rank's part of the samples: pixels (n, 3, S, S) uint8 and labels (n,), both on the CPU."""
    own = np.array_split(samples, world.size)[world.rank]
    parts = [(0, part.tolist()) for part in np.array_split(own, max(1, len(own) // 64))]
    pixels, problem = torch.empty(0), None
    try:
        made = rendered(images, view, parts, workers)
        pixels = torch.cat(list(progress(made, len(parts), "images of the probe") if world.is_main else made))
    except BadImage as bad:  # of one rank: the others would wait for it
        problem = str(bad)
    if problem := next(filter(None, world.collect(problem)), None):
        raise ValueError(problem)
    return pixels, torch.as_tensor(images.labels[own], dtype=torch.int64)
