"""Barlow Twins, ViT-S/16 (12 heads), ImageNet-1k.

Source: loss and views of Barlow Twins (arXiv 2103.03230, facebookresearch/barlowtwins at 8e8d284); network, optimiser
and schedule of MoCo v3's ViT-S (Chen et al. 2021, arXiv 2104.02057, facebookresearch/moco-v3 at c349e6e: AdamW 1.5e-4 x
batch/256,
weight decay 0.1, 300 epochs, warm-up 40).
Published: none for this pair; MoCo v3 itself reaches 73.2 % linear top-1 with this network. Ours: not run yet.
    python pretrain.py barlow_twins_vits16 --data IMAGENET --out DIR
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import ImageFolder
from losses import BarlowTwins
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; 300, moco-v3 CONFIG.md"] = 300,
    batch_size: Annotated[int, "rows of the global batch; 1024 here, moco-v3 takes 4096"] = 1024,
    lr: Annotated[float, "AdamW learning rate a 256 rows; 1.5e-4, moco-v3 CONFIG.md"] = 1.5e-4,
    lambd: Annotated[float, "weight of the off-diagonal terms; 0.0051, barlowtwins main.py --lambd"] = 5.1e-3,
    width: Annotated[int, "features of each projector layer; 8192, barlowtwins main.py --projector"] = 8192,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 40, moco-v3 CONFIG.md"] = 40,
    size: Annotated[int, "side of a view in pixels, a multiple of 16; 224"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe."""
    return Recipe(
        source="loss: arXiv 2103.03230; network and schedule: arXiv 2104.02057. No figure was published for the pair",
        data=ImageFolder(),
        views=(View(size=size, blur=1.0), View(size=size, blur=0.1, solarize=0.2)),
        eval_view=Center(resize=size * 256 // 224, size=size),
        objective=partial(
            JointEmbedding,
            encoder=Backbone("vit_small_patch16_224", {"num_heads": 12, "img_size": size}),  # timm's ViT-S has 6 heads
            head=Mlp((width, width, width)),
            loss=BarlowTwins(lambd),
        ),
        optimizer=AdamW(lr=lr * batch_size / 256, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        final_lr=0.0,  # moco-v3 main_moco.py: the cosine ends at zero
        precision="bf16",
        seed=seed,
    )
