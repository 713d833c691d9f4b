"""Weights out: pretrained encoders as a folder that timm loads, any module as one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from .backbone import Backbone


def export_encoder(module: nn.Module, spec: Backbone, folder: Path, preprocessing: dict[str, Any]) -> Path:
    """Writes `folder/config.json` and `folder/model.safetensors`; returns the weights' path.

    `timm.create_model("local-dir:FOLDER", pretrained=True, num_classes=0)` reloads it exactly. timm's supervised
    defaults are overwritten by `preprocessing`. timm has no name for a CIFAR stem: such a folder is loaded by
    `Backbone(name, kwargs, stem)`, as config.json says under "stem"; timm itself refuses it, since a shape differs.

    Args:
        module: the encoder that `spec` built.
        preprocessing: of evaluation: `input_size` (3, H, W), `mean`, `std`, `crop_pct` (crop over short side),
            `interpolation`.

    Raises:
        OSError: the folder cannot be written.
    """
    import timm.models  # here, as in Backbone.build

    module = module.to(memory_format=torch.contiguous_format)  # safetensors wants it
    extra: dict[str, Any] = {} if spec.stem == "imagenet" else {"stem": spec.stem}
    extra["pretrained_cfg"] = {"tag": "", "license": "unknown", "origin_url": ""}  # not those of timm's own weights
    try:
        timm.models.save_for_hf(
            module,
            str(folder),
            model_config=extra,
            model_args=dict(spec.kwargs),
            safe_serialization=True,
            data_config=preprocessing,
        )
    except SafetensorError as error:  # no OSError, though all it can be here is a disk that takes no more
        raise OSError(f"the encoder could not be written to {folder}: {error}") from error
    return folder / "model.safetensors"


def export_weights(module: nn.Module, path: Path) -> Path:
    """Writes all parameters and buffers of a module under their own names; returns the path.

    Raises:
        OSError: the file cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path)
    except SafetensorError as error:
        raise OSError(f"the weights could not be written to {path}: {error}") from error
    return path
