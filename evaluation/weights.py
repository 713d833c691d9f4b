"""Weights into an encoder, every key accounted for: a probe never runs on a partly random encoder unnoticed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from models import Backbone

from .layouts import AS_OURS, COMMON, EVALUATED, HEADS, NAMINGS, Naming
from .weight_files import Tensors, read, some


@dataclass(frozen=True)
class Account:
    """Where every tensor of a file went."""

    file: str
    sha256: str
    naming: str
    prefix: str  # taken off each key: where in the file the encoder stands
    num_loaded: int
    stored_as: str  # types of its floating-point tensors; float32 here
    left_out: dict[str, int]  # tensors that are no part of the encoder, counted by the beginning of their name

    def __str__(self) -> str:
        """Returns a table to print."""
        stored = "" if self.stored_as == "float32" else f", stored as {self.stored_as}"
        encoder = f"the encoder, all {self.num_loaded} tensors of it, {self.naming}{stored}"
        rows = [(str(self.num_loaded), f"{self.prefix}*", encoder)]
        for group, count in self.left_out.items():
            rows.append((str(count), f"{group}*" if group.endswith(".") else group, "left out"))
        wide = max(len(keys) for _, keys, _ in rows)
        lines = [f"  {count:>7}  {keys:<{wide}}  {fate}" for count, keys, fate in rows]
        return "\n".join([f"weights: {self.file}, sha256 {self.sha256[:12]}...", "  tensors  keys", *lines])


def load(encoder: nn.Module, path: Path, prefix: str | None = None) -> Account:
    """Fills `encoder` from a file; returns where every key went.

    Args:
        prefix: of the encoder's keys in the file, with or without the name of the dict that holds them; None: the one
            under which the whole encoder is found.

    Raises:
        ValueError: the file cannot be read as weights, or does not hold exactly this encoder; the encoder is unchanged.
    """
    tensors, digest = read(path)
    return fill(encoder, tensors, str(path), digest, prefix)


def fill(encoder: nn.Module, tensors: Tensors, source: str, sha256: str = "", prefix: str | None = None) -> Account:
    """Fills `encoder` from tensors by name; returns where each went.

    Under the prefix every key must be the encoder's, in shape too, or a head's; nothing may be missing.

    Raises:
        ValueError: naming `source`, the counts and the first missing, unexpected and mis-shaped keys.
    """
    target = encoder.state_dict()
    found = _places(encoder, tensors, prefix)
    if len(found) > 1:
        prefixes = " or ".join(place.prefix or "''" for place in found)
        raise ValueError(f"{source} holds this encoder {len(found)} times: choose with --prefix {prefixes}")
    place = found[0]
    problems = _problems(encoder, tensors, place)
    if problems:
        others = " or ".join(map(flags, fitting(tensors, prefix)))
        raise ValueError(
            f"{source} does not hold this encoder's {len(target)} tensors (prefix {place.prefix!r}): {problems}"
            + (f". It holds those of {others}" if others else "")
        )
    names = {key: place.prefix + place.naming(key) for key in target}
    encoder.load_state_dict({key: tensors[name] for key, name in names.items()}, strict=True)
    taken = set(names.values())
    types = sorted(
        {str(tensors[name].dtype).removeprefix("torch.") for name in taken if tensors[name].is_floating_point()}
    )
    left_out = Counter(_group(key, place.prefix) for key in tensors if key not in taken)
    return Account(source, sha256, place.naming.what, place.prefix, len(target), ", ".join(types), dict(left_out))


def told_backbone(tensors: Tensors, source: str, prefix: str | None = None) -> Backbone:
    """Returns the one common network that would be filled by these tensors.

    Raises:
        ValueError: there is none, or there are several that only the user can tell apart.
    """
    found = list(fitting(tensors, prefix))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{source} fits {len(found)} networks: choose {' or '.join(map(flags, found))}")
    raise ValueError(
        f"{source} fits none of the common networks: name its own by --backbone, the timm name such as resnet50"
    )


def fitting(tensors: Tensors, prefix: str | None = None) -> Iterator[Backbone]:
    """Yields the common networks that these tensors would fill, shapes included."""
    for (end, shape), backbones in COMMON.items():
        if any(key.endswith(end) and tuple(value.shape) == shape for key, value in tensors.items()):
            for backbone in backbones:
                with torch.device("meta"):
                    encoder, _ = backbone.build()
                places = [
                    place for place in _places(encoder, tensors, prefix) if not _problems(encoder, tensors, place)
                ]
                if any(bool(place.naming.without) == (backbone.stem == "cifar-no-relu") for place in places):
                    yield backbone


def flags(backbone: Backbone) -> str:
    """Returns the flags that name the network."""
    kwargs = f" --backbone-kwargs '{json.dumps(dict(backbone.kwargs))}'" if backbone.kwargs else ""
    return f"--backbone {backbone.name}{kwargs}" + ("" if backbone.stem == "imagenet" else f" --stem {backbone.stem}")


@dataclass(frozen=True)
class _Place:
    """Where an encoder stands among the tensors of a file, and how it is named there."""

    naming: Naming
    prefix: str


def _places(encoder: nn.Module, tensors: Tensors, given: str | None) -> list[_Place]:
    """Returns where the whole encoder stands, without those that its project does not evaluate; else the best guess."""
    target = list(encoder.state_dict())
    counts: list[tuple[int, _Place]] = []
    possible = [n for n in NAMINGS if all(isinstance(getattr(encoder, name, None), nn.Identity) for name in n.without)]
    namings = {tuple(map(naming, target)): naming for naming in reversed(possible)}  # those that differ for this one
    for names, naming in reversed(namings.items()):
        ends = {names[0], names[-1]}  # either may be what the file lacks
        prefixes = {key.removesuffix(end) for end in ends for key in tensors if key == end or key.endswith(f".{end}")}
        for prefix in sorted({"", *prefixes}):
            # the given one may leave out the name of the dict around it
            if given is None or given in (prefix, prefix.partition(".")[2]):
                counts.append((sum(prefix + name in tensors for name in names), _Place(naming, prefix)))
    whole = [place for count, place in counts if count == len(target)]
    evaluated = [place for place in whole if not any(_counts_more(other.prefix, place.prefix) for other in whole)]
    best = max(counts, key=lambda found: found[0], default=(0, _Place(AS_OURS, given or "")))[1]
    return evaluated or [best]


def _counts_more(prefix: str, other: str) -> bool:
    """Returns whether of two encoders in a file the one under `prefix` is what its project evaluates."""
    mine, others = prefix.split("."), other.split(".")
    return any(first in mine and second in others and first not in others for first, second in EVALUATED)


def _problems(encoder: nn.Module, tensors: Tensors, place: _Place) -> str:
    """Returns what forbids to fill the encoder from there: counts and first keys; "": nothing."""
    ours = {place.naming(key): value for key, value in encoder.state_dict().items()}
    inside = {key.removeprefix(place.prefix): value for key, value in tensors.items() if key.startswith(place.prefix)}
    named = getattr(encoder, "pretrained_cfg", {}).get("classifier") or ()
    heads = (*((named,) if isinstance(named, str) else named), *HEADS)
    missing = [key for key in ours if key not in inside]
    unexpected = [key for key in inside if key not in ours and not f"{key}.".startswith(tuple(f"{h}." for h in heads))]
    shapes = [
        f"{key} {_shape(inside[key])} for {_shape(ours[key])}"
        for key in ours
        if key in inside and inside[key].shape != ours[key].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    return "; ".join(f"{len(keys)} {what} ({some(keys)})" for what, keys in problems if keys)


def _group(key: str, prefix: str) -> str:
    """Returns the beginning of a key up to the part where it leaves the prefix: "model.projector." for "model.net."."""
    parts = key.split(".")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, prefix.split("."), strict=False)))
    return ".".join(parts[: shared + 1]) + ("." if len(parts) > shared + 1 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
