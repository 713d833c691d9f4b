"""VICReg, ResNet-18 (CIFAR stem), CIFAR-10.

Source: vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/vicreg.yaml. Its variance term lacks the official 1/2,
so its weight of 25 is 50 in the official form, which is used here.
Published: 92.07 % top-1 of the online linear probe (1000 epochs). Ours: see README for short CPU runs of a smaller net.
    python pretrain.py vicreg_rn18_cifar10 --data DIR --out DIR
"""

from functools import partial
from typing import Annotated

from augmentations import CIFAR_PROBE_EVAL, CIFAR_VICREG
from data import Cifar10
from losses import VICReg
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; 1000, vicreg.yaml"] = 1000,
    batch_size: Annotated[int, "rows of the global batch; 256, vicreg.yaml"] = 256,
    lr: Annotated[float, "LARS learning rate a 256 rows; 0.3, vicreg.yaml"] = 0.3,
    invariance: Annotated[float, "weight of the invariance term; 25, vicreg.yaml"] = 25.0,
    variance: Annotated[float, "weight of the official, halved variance term; 2 x 25, vicreg.yaml"] = 50.0,
    covariance: Annotated[float, "weight of the covariance term; 1, vicreg.yaml"] = 1.0,
    width: Annotated[int, "features of each projector layer; 2048, vicreg.yaml"] = 2048,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, solo/methods/base.py"] = 10,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns solo-learn's recipe."""
    return Recipe(
        source="vturrisi/solo-learn at 9187ea3, cifar/vicreg.yaml: 92.07 % online linear top-1",
        data=Cifar10(),
        views=CIFAR_VICREG,
        eval_view=CIFAR_PROBE_EVAL,
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet18", stem="cifar-pad2"),
            head=Mlp((width, width, width), hidden_bias=True, last_bias=True),
            loss=VICReg(invariance, variance, covariance),
        ),
        optimizer=Lars(lr=lr * batch_size / 256, weight_decay=1e-4, eta=0.02, variant="solo-learn", clip=True),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        final_lr=0.0,
        precision="bf16",
        seed=seed,
        evaluate=True,
    )
