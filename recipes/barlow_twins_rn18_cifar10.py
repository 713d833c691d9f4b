"""Barlow Twins, ResNet-18 (CIFAR stem), CIFAR-10.

Source: vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/barlow.yaml and augmentations/asymmetric.yaml.
Published: 92.10 % top-1 of the online linear probe (1000 epochs; offline probe of the same weights 91.56, issue 216).
Ours: see README for short CPU runs of a smaller net.
    python pretrain.py barlow_twins_rn18_cifar10 --data DIR --out DIR
"""

from functools import partial
from typing import Annotated

from augmentations import CIFAR_BARLOW_TWINS, CIFAR_PROBE_EVAL
from data import Cifar10
from losses import BarlowTwins
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; 1000, barlow.yaml"] = 1000,
    batch_size: Annotated[int, "rows of the global batch; 256, barlow.yaml"] = 256,
    lr: Annotated[float, "LARS learning rate a 256 rows; 0.3, barlow.yaml"] = 0.3,
    lambd: Annotated[float, "weight of the off-diagonal terms; 0.0051, solo/methods/barlow_twins.py"] = 5.1e-3,
    loss_scale: Annotated[float, "factor of the whole loss; 0.1, barlow.yaml"] = 0.1,
    width: Annotated[int, "features of each projector layer; 2048, barlow.yaml"] = 2048,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, solo/methods/base.py"] = 10,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns solo-learn's recipe: its stem pads by 2 (34 x 34 maps) and its LARS is clipped, with eta 0.02."""
    return Recipe(
        source="vturrisi/solo-learn at 9187ea3, cifar/barlow.yaml: 92.10 % online linear top-1",
        data=Cifar10(),
        views=CIFAR_BARLOW_TWINS,
        eval_view=CIFAR_PROBE_EVAL,
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet18", stem="cifar-pad2"),
            head=Mlp((width, width, width), hidden_bias=True, last_bias=True),
            loss=BarlowTwins(lambd, scale=loss_scale),
        ),
        optimizer=Lars(lr=lr * batch_size / 256, weight_decay=1e-4, eta=0.02, variant="solo-learn", clip=True),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        final_lr=0.0,  # solo/methods/base.py: min_lr 0
        precision="bf16",  # 16-mixed in solo-learn
        seed=seed,
        evaluate=True,
    )
