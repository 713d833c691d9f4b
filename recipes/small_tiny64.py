"""Four losses side by side, small ResNet, ten classes of Tiny ImageNet in minutes on CPU cores.

Source: ours; losses and networks as in small_cifar10; views: arXiv 2103.03230, without blur, from 64 x 64 images.
Published: none. Ours: the table in README.
    python pretrain.py small_tiny64 --loss vicreg --data DIR --out DIR
Any folder of train/<class>/ and val/<class>/ will do: 64 x 64 images become views of 32 x 32. 2,500 images are few, so
that epochs are many and the batch is small.
"""

from dataclasses import replace
from typing import Annotated, Literal

from augmentations import Center, View
from data import ImageFolder
from training.recipe import Recipe

from .small_cifar10 import recipe as small_cifar10


def recipe(
    loss: Annotated[
        Literal["barlow_twins", "simclr", "vicreg", "sample_correlation"], "what compares the two views"
    ] = "barlow_twins",
    epochs: Annotated[int, "passes over the training set; chosen here: a few minutes a run"] = 48,
    batch_size: Annotated[int, "rows of the global batch; chosen here: small, for many steps"] = 128,
    lr: Annotated[float, "AdamW learning rate; that of small_cifar10"] = 2e-3,
    width: Annotated[int, "features of each projector layer; that of small_cifar10"] = 512,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe: small_cifar10 with other images."""
    view = View(size=32, scale=(0.2, 1.0), blur=0.0)
    return replace(
        small_cifar10(loss, epochs, batch_size, lr, width, seed),
        source="ours; losses: arXiv 2103.03230, 2002.05709, 2105.04906; views: arXiv 2103.03230",
        data=ImageFolder(),
        views=(view, replace(view, solarize=0.2)),
        eval_view=Center(resize=32, size=32),
        warmup_epochs=epochs / 10,
    )
