"""The encoder that is evaluated: a run's, a file's, or published weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from augmentations import Center
from models import Backbone

from .flags import Subject
from .published import is_published, published_state
from .run_folder import weights_of
from .weights import Account, fill, load


def filled(subject: Subject, backbone: Backbone) -> tuple[nn.Module, Account]:
    """Returns the encoder with the weights that are asked for, and where they came from.

    Raises:
        ValueError: there are none, they cannot be read, or are not exactly this encoder's.
    """
    encoder, _ = backbone.build()
    if subject.run is not None:
        file, is_checkpoint = weights_of(subject.run, "encoder/model.safetensors")
        return encoder, load(encoder, file, "encoder." if is_checkpoint else "")
    assert subject.weights is not None
    if is_published(subject.weights):
        state, digest = published_state(subject.weights, backbone)
        return encoder, fill(encoder, state, subject.weights, digest)
    return encoder, load(encoder, Path(subject.weights), subject.prefix)


def check_side(encoder: nn.Module, view: Center) -> None:
    """Raises: ValueError: a transformer for images of another side than the view's, which its positions fix."""
    patches = getattr(encoder, "patch_embed", None)
    side = getattr(patches, "img_size", None)
    if side and getattr(patches, "strict_img_size", False) and tuple(side) != (view.size, view.size):
        raise ValueError(
            f"the network takes images of {side[0]} x {side[1]} pixels, and the view gives {view.size} x {view.size}: "
            f"give --size {side[0]}, or with --weights interpolate its positions by --backbone-kwargs "
            "'{\"dynamic_img_size\": true}'"
        )
