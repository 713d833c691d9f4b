"""Four losses side by side, small ResNet, CIFAR-10 in minutes on CPU cores.

Source: ours. Losses: Barlow Twins arXiv 2103.03230, SimCLR's NT-Xent arXiv 2002.05709, VICReg arXiv 2105.04906, and
sample correlation, this project's own; views: vturrisi/solo-learn at 9187ea3, cifar/augmentations/asymmetric.yaml.
Published: none. Ours: the table in README.
    python pretrain.py small_cifar10 --loss vicreg --data DIR --out DIR
Everything but the loss (and NT-Xent's narrower projector) is the same, so that the rows compare the losses.
"""

from functools import partial
from typing import Annotated, Literal

from augmentations import CIFAR_BARLOW_TWINS, CIFAR_PROBE_EVAL
from data import Cifar10
from losses import BarlowTwins, NTXent, SampleCorrelation, VICReg
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    loss: Annotated[
        Literal["barlow_twins", "simclr", "vicreg", "sample_correlation"], "what compares the two views"
    ] = "barlow_twins",
    epochs: Annotated[int, "passes over the training set; as many as half an hour allows for twelve runs"] = 2,
    batch_size: Annotated[int, "rows of the global batch; 256, solo-learn's cifar recipes"] = 256,
    lr: Annotated[float, "AdamW learning rate; chosen here for short runs"] = 2e-3,
    width: Annotated[int, "features of each projector layer; chosen here"] = 512,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe: a ResNet-10-t of half the usual width, with its ImageNet stem (8 x 8 maps)."""
    heads_and_losses = {
        "barlow_twins": (Mlp((width, width, width)), BarlowTwins()),
        "simclr": (Mlp((width, 128)), NTXent(temperature=0.2)),  # 0.2: solo-learn's cifar/simclr.yaml
        "vicreg": (Mlp((width, width, width), hidden_bias=True), VICReg()),
        "sample_correlation": (Mlp((width, width, width)), SampleCorrelation()),
    }
    head, function = heads_and_losses[loss]
    return Recipe(
        source="ours; losses: arXiv 2103.03230, 2002.05709, 2105.04906; views: vturrisi/solo-learn at 9187ea3",
        data=Cifar10(),
        views=CIFAR_BARLOW_TWINS,
        eval_view=CIFAR_PROBE_EVAL,
        objective=partial(
            JointEmbedding,
            encoder=Backbone("resnet10t", {"channels": (32, 64, 128, 256)}),
            head=head,
            loss=function,
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(0.5, epochs),
        precision="bf16",
        seed=seed,
        evaluate=True,
    )
