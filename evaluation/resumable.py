"""Training on augmented images that can be stopped after any step and taken up again, equal to the bit.

Everything random is a function of the position, as in pretraining: the order of a pass of (seed, pass), a crop of
(seed, pass, image), the learning rate of the step. So what has to be kept is the step, what is learned, and what was
measured on the way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from augmentations import View
from data import BadImage, ImageSet
from data.order import epoch_order
from parallel import World
from training import checkpoint, stop
from training.recipe import describe

from .images import Rows, batches, progress

GO, STOP, BAD_IMAGE = 0, 1, 2  # what a rank says before a step; the highest is done by all
SAVE_EVERY_S = 300  # at most so much work is done again after a kill -9
KEEP = 2  # states: one is left if the newest is damaged

_order = lru_cache(maxsize=4)(epoch_order)  # a batch's, and those of the batches that are made ahead of it


@dataclass(frozen=True)
class Course:
    """Which images come at which step: pieces of an endless row of passes over them, each in an order of its own.

    Args:
        samples: which images of the set are trained on, (num,).
        batch_size: images of a step, of all ranks together.
        num_steps: of the whole training.
        num_epochs: how often something is measured on the way, in equal parts.
        whole_batches: batches run on over the end of a pass; else its last batch is what is left of it.
        seed: of order and crops.
    """

    samples: np.ndarray
    batch_size: int
    num_steps: int
    num_epochs: int
    whole_batches: bool
    seed: int

    def batch(self, step: int) -> range:
        """Returns the places in the row of passes that are the batch of `step`: place p is in pass p // num."""
        num, size = len(self.samples), self.batch_size
        if self.whole_batches:
            return range(step * size, (step + 1) * size)
        epoch, position = divmod(step, -(-num // size))
        return range(epoch * num + position * size, min(epoch * num + (position + 1) * size, (epoch + 1) * num))

    def pieces(self, step: int, rank: int, size: int, limit: int) -> list[Rows]:
        """Returns a rank's share of the batch as (pass, images) of up to `limit` images; ranks in order are the batch.

        The shares of an uneven batch differ by one; there is none where it has fewer images than there are ranks.
        """
        batch, num = self.batch(step), len(self.samples)
        share = batch[len(batch) * rank // size : len(batch) * (rank + 1) // size]
        found: list[Rows] = []
        while share:
            epoch, start = divmod(share[0], num)
            count = min(len(share), limit, num - start)
            found.append((epoch, self.samples[_order(self.seed, epoch, num)[start : start + count]]))
            share = share[count:]
        return found

    def num_measured(self, step: int) -> int:
        """Returns how often something has been measured after `step` steps: at most once a step."""
        return min(step, step * self.num_epochs // self.num_steps)


class Learner(Protocol):
    """What is trained: with `state_dict` and `load_state_dict` that hold all of it but the step."""

    def see(self, x: Tensor) -> Tensor:
        """Returns what a step needs of images (n, 3, S, S), such as a frozen encoder's features (n, D)."""
        ...

    def step(self, seen: Sequence[Tensor], labels: Tensor, num_rows: int, step: int) -> None:
        """Learns from this rank's share of a batch of `num_rows` images; the gradient is that of the whole batch.

        Args:
            seen: of this rank's pieces, in order; empty where it has no image of the batch.
            labels: of the same images, (n,).
        """
        ...

    def measure(self) -> list[Any]:
        """Returns numbers to keep, those of the main rank; asked on every rank at the end of each epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values, as `training.checkpoint` saves them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state."""
        ...


def learn(
    learner: Learner,
    course: Course,
    images: ImageSet,
    view: View,
    world: World,
    workers: int,
    limit: int,
    what: str,
    folder: Path | None = None,
) -> list[list[Any]]:
    """Returns what was measured at the end of each epoch, on every rank, after all steps of the course.

    Args:
        limit: images that a worker renders and `see` is given at a time, at most.
        what: the progress line calls it.
        folder: where the state is kept, seen by all ranks; None: nowhere, a stop loses what was done.

    Raises:
        Stopped: by a signal, between two steps or while something is measured, with the state saved; on every rank at
            the same step.
        BadImage: on every rank, if an image cannot be read on one.
        ValueError: every state in the folder is damaged.
    """
    first, curve = 0, []
    if folder is not None and (state := _newest(folder, world)):
        first, curve = state["step"], state["curve"]
        learner.load_state_dict(state["learner"])

    def save(step: int) -> str:
        """Returns why the state after `step` steps could not be saved, or "": on a full disk the training goes on."""
        if folder is not None and world.is_main:
            try:
                checkpoint.save(folder, step, {"step": step, "curve": curve, "learner": learner.state_dict()}, KEEP)
            except checkpoint.CheckpointError as error:
                return str(error)
        return ""

    def stopped(by: str, step: int) -> stop.Stopped:
        problem = world.from_main(save(step))  # no rank leaves before the state is on the disk
        return stop.Stopped(f"stopped by {by} at step {step}, {problem or 'saved'}: run the same command again")

    def measure(step: int) -> None:
        if len(curve) < course.num_measured(step):
            try:
                curve.append(learner.measure())
            except stop.Stopped:
                raise stopped("a signal", step) from None

    measure(first)  # the last attempt may have ended while it did
    labels = torch.as_tensor(images.labels, dtype=torch.int64)
    saved_at = time.monotonic()
    steps = range(first, course.num_steps)
    rows = (piece for step in steps for piece in course.pieces(step, world.rank, world.size, limit))
    with closing(batches(images, view, rows, world.device, workers, course.seed)) as pixels:
        for step in progress(steps, len(steps), what) if world.is_main else steps:
            pieces = course.pieces(step, world.rank, world.size, limit)
            seen, bad = [], ""
            try:
                seen = [learner.see(next(pixels)) for _ in pieces]
            except BadImage as error:
                bad = str(error)
            notice = stop.pending()
            verdict = world.highest(BAD_IMAGE if bad else STOP if notice else GO)
            if verdict != GO:
                leaving = stopped(notice or "another rank", step)
                if verdict == BAD_IMAGE:
                    raise BadImage(next(message for message in world.collect(bad) if message))
                raise leaving
            own = np.concatenate([np.empty(0, np.int64), *(samples for _, samples in pieces)])
            learner.step(seen, labels[own].to(world.device), len(course.batch(step)), step)
            measure(step + 1)
            if time.monotonic() - saved_at > SAVE_EVERY_S or step + 1 == course.num_steps:
                save(step + 1)
                saved_at = time.monotonic()
    return world.from_main(curve)


def state_folder(result: Path, facts: Mapping[str, Any]) -> Path:
    """Returns the folder beside a result in which its trainings keep their states, one for these very facts.

    Another encoder, other images or another protocol have another folder, so no state of theirs is ever taken up.
    """
    text = json.dumps({name: describe(fact) for name, fact in facts.items()}, sort_keys=True)
    return result.with_name(f"{result.stem}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.unfinished")


def _newest(folder: Path, world: World) -> dict[str, Any] | None:
    """Returns the newest state that verifies, the same on every rank, or None: there is none yet."""
    path, damaged = world.from_main(checkpoint.newest(folder) if world.is_main else None)
    if path is None and damaged:
        raise ValueError(f"{folder}: every state in it is damaged; remove it to start over")
    return checkpoint.load(path) if path else None
