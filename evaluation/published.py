"""Weights by name, timm:NAME and torchvision:NAME: published ones, through those libraries' own caches."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from safetensors.torch import save

from augmentations import Center
from models import Backbone

from .weight_files import Tensors

LIBRARIES = ("timm", "torchvision")
# torchvision's networks whose tensors timm names alike, and computes alike.
_ALIKE = ("resnet", "resnext", "wide_resnet")


def is_published(weights: str) -> bool:
    """Returns whether this names published weights instead of a file."""
    return weights.partition(":")[0] in LIBRARIES


def network(weights: str) -> str:
    """Returns the timm name of the network.

    Raises:
        ValueError: the library has no such weights, or torchvision's network is another than timm's of that name.
    """
    library, _, name = weights.partition(":")
    if library == "timm":
        config = _timm_config(name)
        return ".".join(part for part in (config["architecture"], config["tag"]) if part)
    return _torchvision_weights(name)[0]


def published_view(weights: str) -> Center:
    """Returns how the weights' publisher looks at an image to evaluate them.

    Raises:
        ValueError: the library has no such weights, or cuts images as no view here does.
    """
    library, _, name = weights.partition(":")
    if library == "torchvision":
        transforms: Any = _torchvision_weights(name)[1].transforms()
        (resize,), (size,) = transforms.resize_size, transforms.crop_size
        return Center(resize, size, transforms.interpolation.value, tuple(transforms.mean), tuple(transforms.std))
    from timm.data import resolve_data_config

    config = resolve_data_config({}, pretrained_cfg=_timm_config(name))
    if config["crop_mode"] != "center":
        raise ValueError(
            f"{weights} wants images {config['crop_mode']}ed, which no view here does: evaluate it with timm itself"
        )
    size = config["input_size"][-1]
    resize = math.floor(size / config["crop_pct"])
    return Center(resize, size, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))


def published_state(weights: str, backbone: Backbone) -> tuple[Tensors, str]:
    """Returns (the tensors by name, the sha256 of them in the .safetensors format), downloaded unless in the cache.

    Raises:
        ValueError: they cannot be had.
    """
    library, _, name = weights.partition(":")
    try:
        if library == "timm":
            import timm

            network = timm.create_model(name, pretrained=True, num_classes=0, **backbone.kwargs)
            state: dict[str, torch.Tensor] = network.state_dict()
        else:
            state = dict(
                _torchvision_weights(name)[1].get_state_dict(progress=False, check_hash=True, weights_only=True)
            )
    except Exception as error:  # what a hub's client raises is its own affair
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        cache = "the Hugging Face cache (HF_HOME)" if library == "timm" else "torch's cache (TORCH_HOME)"
        raise ValueError(
            f"{weights} is not in {cache} and could not be fetched ({type(error).__name__}: {reason}): fetch it once "
            "where there is a network, or give a file"
        ) from None
    return state, hashlib.sha256(save({key: value.contiguous() for key, value in state.items()})).hexdigest()


def _timm_config(name: str) -> dict[str, Any]:
    import timm

    known = timm.list_pretrained(f"{name.partition('.')[0]}*")
    tagless = name in (full.partition(".")[0] for full in known)
    if name not in known and not tagless:
        hint = f", but {', '.join(known[:5])}" if known else "; timm.list_pretrained() lists the names"
        raise ValueError(f"timm has no weights {name!r}{hint}")
    config: Any = timm.get_pretrained_cfg(name)
    return config.to_dict()


def _torchvision_weights(name: str) -> tuple[str, Any]:
    """Returns (the network's name, the member of its enumeration of weights): NAME or NAME.WEIGHTS."""
    from torchvision import models

    network, _, weights = name.partition(".")
    known = [known for known in models.list_models(module=models) if known.startswith(_ALIKE)]
    if network not in known:
        raise ValueError(f"torchvision:{network} is none of {', '.join(known)}, those that timm has alike")
    choices: Any = models.get_model_weights(network)
    if weights and weights not in choices.__members__:
        raise ValueError(f"torchvision:{network} has no weights {weights!r}, only {', '.join(choices.__members__)}")
    return network, choices[weights] if weights else choices.DEFAULT
