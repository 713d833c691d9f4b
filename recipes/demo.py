"""Barlow Twins, small ResNet, shapes that the project draws itself.

Source: ours, for two CPU cores; the loss and its weight are those of arXiv 2103.03230.
Published: none. Ours: the table in README.
    python pretrain.py demo --out DIR
One view is grey and the other keeps its hues: what the two share beyond colour, which is drawn independently of the
class, is mostly the shape. Turning the hue would change which of shape and background is the brighter: it costs half.
"""

from dataclasses import replace
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
    epochs: Annotated[int, "passes over the training set; chosen here: what a few minutes allow"] = 24,
    batch_size: Annotated[int, "rows of the global batch; chosen here: small, for many steps"] = 64,
    images: Annotated[int, "training images to draw; the test split has 1000 more"] = 4000,
    lr: Annotated[float, "AdamW learning rate; chosen here"] = 3e-3,
    lambd: Annotated[float, "weight of the off-diagonal terms; 0.0051, arXiv 2103.03230 section 2.2"] = 5.1e-3,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe: 64 x 64 pictures, views of 32 x 32, a ResNet-10-t of half the usual width."""
    view = View(size=32, scale=(0.5, 1.0), saturation=0.4, hue=0.0, gray=0.0)
    return Recipe(
        source="ours; loss: arXiv 2103.03230",
        data=Shapes(num_train=images, seed=2),  # seed 1 is the draw on which the views were chosen
        views=(replace(view, gray=1.0), view),
        eval_view=Center(resize=32, size=32),
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet10t", {"channels": (32, 64, 128, 256)}),
            head=Mlp((512, 512, 512)),
            loss=BarlowTwins(lambd),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-5),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=epochs / 10,
        precision="fp32",
        seed=seed,
        evaluate=True,
    )
