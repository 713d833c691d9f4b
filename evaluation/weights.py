"""Weights from files, every key accounted for: a probe never runs on a partly random encoder unnoticed."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

State = Mapping[str, Tensor]

# Where a training script's file keeps its state dict: ours; the official Barlow Twins checkpoint.pth; many others.
CONTAINERS = ("objective", "model", "state_dict")
# What may stand beside a backbone that has no prefix; the classifier that timm names for the backbone comes on top.
HEADS = ("fc", "head", "classifier", "projector", "predictor")
SHOWN = 3  # keys named in a message


@dataclass(frozen=True)
class Account:
    """Where every tensor of a file went."""

    file: str
    sha256: str
    container: str  # "" for a plain state dict
    prefix: str  # taken off each key
    num_loaded: int
    left_out: dict[str, int]  # tensors that are no part of the encoder, counted by the first parts of their name

    def __str__(self) -> str:
        """Returns one line to print."""
        where = f" under {self.container!r}" if self.container else ""
        how = f"prefix {self.prefix!r} taken off" if self.prefix else "no prefix"
        beside = ", ".join(f"{group}* ({count})" for group, count in self.left_out.items()) or "nothing"
        return (
            f"weights: all {self.num_loaded} tensors of the encoder from {self.file}{where}, {how}; left out: {beside}"
        )


def load(encoder: nn.Module, path: Path, prefix: str | None = None) -> Account:
    """Fills `encoder` from a .safetensors, .pth or .pt file; returns where every key went.

    Args:
        prefix: of the encoder's keys in the file; None: the one under which the whole encoder is found.

    Raises:
        ValueError: the file cannot be read as weights, or does not hold exactly this encoder; the encoder is unchanged.
    """
    content, digest = _read(path)
    container, state = _state(content, path)
    prefix, left_out = fill(encoder, state, str(path), prefix)
    return Account(str(path), digest, container, prefix, len(encoder.state_dict()), left_out)


def fill(encoder: nn.Module, state: State, source: str, prefix: str | None = None) -> tuple[str, dict[str, int]]:
    """Fills `encoder` from a state dict; returns (the prefix taken off, what was left out).

    Under the prefix every key must be the encoder's, in shape too, or a classifier's; nothing may be missing.

    Raises:
        ValueError: naming `source`, the counts and the first missing, unexpected and mis-shaped keys.
    """
    target = encoder.state_dict()
    if prefix is None:
        prefix = _prefix(target, state, source)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    heads = _heads(encoder, prefix)
    missing = [key for key in target if key not in inside]
    unexpected = [key for key in inside if key not in target and not key.startswith(heads)]
    shapes = [
        f"{key} {_shape(inside[key])} for {_shape(target[key])}"
        for key in target
        if key in inside and inside[key].shape != target[key].shape
    ]
    if missing or unexpected or shapes:
        problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        found = "; ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems if keys)
        found += _hint(target, inside)
        raise ValueError(f"{source} does not hold this encoder's {len(target)} tensors (prefix {prefix!r}): {found}")
    encoder.load_state_dict({key: inside[key] for key in target}, strict=True)
    used = {prefix + key for key in target}
    return prefix, dict(Counter(_group(key) for key in state if key not in used))


def sha256(path: Path) -> str:
    """Returns the file's digest, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[Any, str]:
    if not path.is_file():
        raise ValueError(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), sha256(path)
        with warnings.catch_warnings(action="ignore"):  # torch's guesses about damaged files
            return torch.load(path, map_location="cpu", weights_only=True), sha256(path)
    except Exception as error:  # damaged bytes can make a reader raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as weights: {reason[:200]} (a .safetensors file, or a .pth of tensors, numbers and "
            "strings only: code in a file is never run)"
        ) from None


def _state(content: Any, path: Path) -> tuple[str, State]:
    """Returns (the container's name, the state dict)."""
    if _is_state(content):
        return "", content
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if _is_state(content.get(name)):
                return name, content[name]
    keys = (
        f"holds {_some([str(key) for key in content])}"
        if isinstance(content, Mapping)
        else f"is a {type(content).__name__}"
    )
    raise ValueError(f"{path} {keys}: no state dict at the top or under {', '.join(CONTAINERS)}")


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(item, Tensor) for item in value.values())


def _prefix(target: State, state: State, source: str) -> str:
    """Returns the prefix under which all keys of the encoder are found, or else, for the message, most of them."""
    first, *_, last = target  # either may be what the file lacks
    candidates = {
        key.removesuffix(end) for end in (first, last) for key in state if key == end or key.endswith(f".{end}")
    }
    hits = {prefix: sum(prefix + key in state for key in target) for prefix in {"", *candidates}}
    complete = sorted(prefix for prefix, count in hits.items() if count == len(target))
    if len(complete) > 1:
        raise ValueError(
            f"{source} holds this encoder {len(complete)} times: choose with --prefix {' or '.join(complete)}"
        )
    return max(sorted(hits), key=lambda prefix: hits[prefix])


def _heads(encoder: nn.Module, prefix: str) -> tuple[str, ...]:
    """Returns how keys of heads may begin inside the prefix."""
    named = getattr(encoder, "pretrained_cfg", {}).get("classifier") or ()
    classifier = (named,) if isinstance(named, str) else tuple(named)
    return tuple(f"{name}." for name in (*classifier, *(() if prefix else HEADS)))


def _group(key: str) -> str:
    """Returns the first parts of a key: "module.projector." of "module.projector.0.weight"."""
    parts = key.split(".")
    return ".".join(parts[: 2 if parts[0] in ("module", "model") else 1]) + ("." if len(parts) > 1 else "")


def _hint(target: State, inside: State) -> str:
    first = "conv1.weight"
    if first in target and first in inside and inside[first].shape[2:] != target[first].shape[2:]:
        side = inside[first].shape[-1]
        return f". Its first convolution is {side} x {side}: try --stem {'cifar' if side == 3 else 'imagenet'}"
    return ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
