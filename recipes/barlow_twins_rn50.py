"""Barlow Twins, ResNet-50, ImageNet-1k.

Source: Zbontar et al. 2021, arXiv 2103.03230; code facebookresearch/barlowtwins at 8e8d284 (main.py, README).
Published: 73.5 % linear top-1 (1000 epochs, batch 2048, 16 V100, 7 days). Ours: not run yet.
    python pretrain.py barlow_twins_rn50 --data IMAGENET --out DIR
Fewer epochs: the authors' 300-epoch table (issue 7 of their repository) has lr 0.7, 0.4, 0.3, 0.25, 0.2 at batch 128,
256, 512, 1024, 2048 for 69.7, 70.7, 71.4, 71.7, 71.4 % top-1, with one learning rate for all (v1: loss x 0.024).
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import ImageFolder
from losses import BarlowTwins
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    backbone: Annotated[str, "any timm network; resnet50 in the paper"] = "resnet50",
    epochs: Annotated[int, "passes over the training set; 1000 in the paper, section 2.2"] = 1000,
    batch_size: Annotated[int, "rows of the global batch; 2048 in the paper, section 2.2"] = 2048,
    lr: Annotated[float, "LARS learning rate of weights a 256 rows; 0.2, main.py --learning-rate-weights"] = 0.2,
    lambd: Annotated[float, "weight of the off-diagonal terms; 0.0051, main.py --lambd"] = 5.1e-3,
    width: Annotated[int, "features of each projector layer; 8192, main.py --projector"] = 8192,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, main.py adjust_learning_rate"] = 10,
    size: Annotated[int, "side of a view in pixels; 224, main.py Transform"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the published recipe (its second version, of June 2021)."""
    scale = batch_size / 256
    return Recipe(
        source="arXiv 2103.03230; facebookresearch/barlowtwins at 8e8d284: 73.5 % linear top-1",
        data=ImageFolder(),
        views=(View(size=size, blur=1.0), View(size=size, blur=0.1, solarize=0.2)),  # the two differ only here
        eval_view=Center(resize=size * 256 // 224, size=size),
        objective=partial(
            JointEmbedding, encoder=Backbone(backbone), head=Mlp((width, width, width)), loss=BarlowTwins(lambd)
        ),
        # The published run left gradients at 1/16 of the whole (16 ranks, a raw all_reduce inside autograd). Ours are
        # whole,
        # so the two figures that LARS does not normalise move over: biases 0.0048/16, decay 1e-6 * 16. Derived, not
        # run.
        optimizer=Lars(lr=lr * scale, lr_vectors=0.0048 / 16 * scale, weight_decay=1e-6 * 16),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        precision="bf16",  # fp16 with a gradient scaler in the paper's code
        seed=seed,
    )
