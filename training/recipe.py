"""What a recipe is, and its description as plain JSON, which the run folder, wandb and every checkpoint keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from objectives import Objective
from objectives.base import Precision


class OptimizerSpec(Protocol):
    """Lars, Sgd or AdamW."""

    def build(self, module: nn.Module) -> Optimizer:
        """Returns the optimiser over the module's parameters, in named groups with a peak learning rate each."""
        ...


@dataclass(frozen=True)
class Recipe:
    """One run worth naming: data, views, networks, loss, optimiser and schedule, with the source of its figures.

    Args:
        source: where the figures come from and what was published with them.
        data: a set of `data/`, opened on `--data`.
        views: the V views of each image.
        eval_view: how images are shown to the encoder when it is evaluated.
        objective: builds the networks with their loss.
        optimizer: Lars, Sgd or AdamW.
        batch_size: rows of the global batch, over all ranks.
        epochs: passes over the training set.
        warmup_epochs: epochs of linear warm-up; a fraction is allowed.
        warmup_steps: the same in steps, as CLIP's code counts; instead of `warmup_epochs`, which should then be 0.
        final_lr: learning rate at the end of the cosine, as a fraction of the peak.
        precision: of the networks; losses are at least float32.
        seed: of weights, order and views.
        clip_grad: largest global norm of the gradient, or None.
        evaluate: probe the encoder when the run ends (for sets small enough that it takes a minute).
        tokenizer: of the captions, the text tower's own; None: images only.
        prompts: sentences with "{}" for a class name, for zero-shot classification at the end; none: retrieval only.
    """

    source: str
    data: Any
    views: tuple[Any, ...]
    eval_view: Any
    objective: partial[Objective]
    optimizer: OptimizerSpec
    batch_size: int
    epochs: int
    warmup_epochs: float
    final_lr: float = 0.001
    precision: Precision = "bf16"
    seed: int = 0
    clip_grad: float | None = None
    evaluate: bool = False
    tokenizer: Any = None
    warmup_steps: int | None = None
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} should be at least 1")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} should lie between 0 and the {self.epochs} epochs")
        if self.warmup_steps is not None and (self.warmup_steps < 0 or self.warmup_epochs):
            raise ValueError(f"warmup_steps {self.warmup_steps} should be at least 0, and warmup_epochs 0 beside it")
        tower = getattr(self.objective.keywords.get("text"), "tokenizer", None)
        if tower != self.tokenizer:
            raise ValueError(f"tokenizer {self.tokenizer} is not the text tower's, {tower}: give the recipe the same")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} should not be negative")


def describe(value: Any) -> Any:
    """Returns `value` as JSON: each dataclass or partial call as a dict with its `kind`, tuples as lists.

    `dataclasses.asdict` would lose which loss or optimiser was chosen.

    Raises:
        TypeError: something that JSON cannot hold.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, partial):
        return {"kind": value.func.__name__, **describe(value.keywords)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a recipe holds {value!r}, which has no description: use numbers, strings, dataclasses or functools.partial"
    )


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Returns the first field in which two descriptions differ, as "optimizer.lr: 0.2 there, 0.3 here", or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            where = f"{path}.{key}" if path else key
            if key not in old or key not in new:
                there, here = (old.get(key, "nothing"), new.get(key, "nothing"))
                return f"{where}: {there!r} there, {here!r} here"
            found = first_difference(old[key], new[key], where)
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            found = first_difference(*pair, f"{path}[{number}]")
            if found:
                return found
        return None
    return None if old == new else f"{path}: {old!r} there, {new!r} here"
