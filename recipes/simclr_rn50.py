"""SimCLR (NT-Xent), ResNet-50, ImageNet-1k.

Source: Chen et al. 2020, arXiv 2002.05709 and 2006.10029; code and README of google-research/simclr (run.py,
model_util.py, data_util.py).
Published: 64.5 % linear top-1 (100 epochs, batch 4096, 32 TPU v3, 6 h); 69.1 % for the 1000-epoch checkpoint.
Ours: not run yet.
    python pretrain.py simclr_rn50 --data IMAGENET --out DIR
The README's command is followed: projector of three layers and weight decay 1e-4; the first paper had two
layers and 1e-6.
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import ImageFolder
from losses import NTXent
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    backbone: Annotated[str, "any timm network; resnet50 in the paper"] = "resnet50",
    epochs: Annotated[int, "passes over the training set; 100, README"] = 100,
    batch_size: Annotated[int, "rows of the global batch; 4096, README"] = 4096,
    lr: Annotated[float, "LARS learning rate times the root of the batch size; 0.075, README (sqrt scaling)"] = 0.075,
    temperature: Annotated[float, "of the similarities; 0.1, README"] = 0.1,
    weight_decay: Annotated[float, "1e-4, README (1e-6 in the first paper)"] = 1e-4,
    width: Annotated[
        int, "features of the hidden projector layers; 2048, as wide as the encoder, model_util.py"
    ] = 2048,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, run.py"] = 10,
    size: Annotated[int, "side of a view in pixels; 224, README"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the published recipe; the two views are drawn alike."""
    view = View(size=size, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)  # strength 1.0
    return Recipe(
        source="arXiv 2002.05709; google-research/simclr README: 64.5 % linear top-1 at 100 epochs",
        data=ImageFolder(),
        views=(view, view),
        eval_view=Center(resize=size * 256 // 224, size=size),
        objective=partial(
            JointEmbedding,
            encoder=Backbone(backbone),
            head=Mlp((width, width, 128), last_norm="scale"),
            loss=NTXent(temperature),
        ),
        optimizer=Lars(lr=lr * batch_size**0.5, weight_decay=weight_decay),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        final_lr=0.0,  # tf.train.cosine_decay ends at zero
        precision="bf16",
        seed=seed,
    )
