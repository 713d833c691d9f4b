"""SimCLR (NT-Xent), ResNet-18 (CIFAR stem), CIFAR-10.

Source: vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/simclr.yaml and augmentations/symmetric.yaml.
Published: 90.74 % top-1 of the online linear probe (1000 epochs). Ours: see README for short CPU runs of a smaller net.
    python pretrain.py simclr_rn18_cifar10 --data DIR --out DIR
"""

from functools import partial
from typing import Annotated

from augmentations import CIFAR_PROBE_EVAL, CIFAR_SIMCLR
from data import Cifar10
from losses import NTXent
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; 1000, simclr.yaml"] = 1000,
    batch_size: Annotated[int, "rows of the global batch; 256, simclr.yaml"] = 256,
    lr: Annotated[float, "LARS learning rate a 256 rows; 0.4, simclr.yaml"] = 0.4,
    temperature: Annotated[float, "of the similarities; 0.2, simclr.yaml"] = 0.2,
    width: Annotated[int, "features of the hidden projector layer; 2048, simclr.yaml"] = 2048,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, solo/methods/base.py"] = 10,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns solo-learn's recipe; its projector has biases and no BatchNorm."""
    return Recipe(
        source="vturrisi/solo-learn at 9187ea3, cifar/simclr.yaml: 90.74 % online linear top-1",
        data=Cifar10(),
        views=CIFAR_SIMCLR,
        eval_view=CIFAR_PROBE_EVAL,
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet18", stem="cifar-pad2"),
            head=Mlp((width, 256), norm=False, hidden_bias=True, last_bias=True),
            loss=NTXent(temperature),
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
