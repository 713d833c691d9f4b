"""Barlow Twins, small ResNet, generated shapes.

Source: ours; the loss is that of arXiv 2103.03230. Published: none.
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import Shapes
from losses import BarlowTwins
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set"] = 12,
    batch_size: Annotated[int, "rows of the global batch"] = 256,
    images: Annotated[int, "training images to generate"] = 4000,
    lr: Annotated[float, "AdamW learning rate"] = 2e-3,
    lambd: Annotated[float, "weight of the off-diagonal terms; 0.0051 in the paper"] = 5.1e-3,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe."""
    size = 48
    return Recipe(
        source="ours, for two CPU cores; loss: arXiv 2103.03230",
        data=Shapes(num_train=images),
        views=(View(size=size, scale=(0.3, 1.0)), View(size=size, scale=(0.3, 1.0))),
        eval_view=Center(resize=None, size=64),
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet10t", {"channels": (32, 64, 128, 256)}),
            head=Mlp((512, 512, 512)),
            loss=BarlowTwins(lambd),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=1,
        precision="fp32",
        seed=seed,
        evaluate=True,
    )
