"""VICReg, ResNet-50, ImageNet-1k.

Source: Bardes et al. 2022, arXiv 2105.04906; code facebookresearch/vicreg at 4e12602 (main_vicreg.py, README).
Published: 73.2 % linear top-1 (1000 epochs, batch 2048). Ours: not run yet.
    python pretrain.py vicreg_rn50 --data IMAGENET --out DIR
100 epochs: 68.6 % with batch 512 and lr 0.3 (README) or 0.4 (paper); at batch 256, lr 0.5 (author, issue 21 of their
repository).
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import ImageFolder
from losses import VICReg
from models import Backbone, Mlp
from objectives import JointEmbedding
from training.optimizers import Lars
from training.recipe import Recipe


def recipe(
    backbone: Annotated[str, "any timm network; resnet50 in the paper"] = "resnet50",
    epochs: Annotated[int, "passes over the training set; 1000 in the paper"] = 1000,
    batch_size: Annotated[int, "rows of the global batch; 2048 in the paper"] = 2048,
    lr: Annotated[float, "LARS learning rate of all parameters a 256 rows; 0.2, main_vicreg.py --base-lr"] = 0.2,
    invariance: Annotated[float, "weight of the invariance term; 25, main_vicreg.py --sim-coeff"] = 25.0,
    variance: Annotated[float, "weight of the variance term; 25, main_vicreg.py --std-coeff"] = 25.0,
    covariance: Annotated[float, "weight of the covariance term; 1, main_vicreg.py --cov-coeff"] = 1.0,
    width: Annotated[int, "features of each expander layer; 8192, main_vicreg.py --mlp"] = 8192,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 10, main_vicreg.py adjust_learning_rate"] = 10,
    size: Annotated[int, "side of a view in pixels; 224, augmentations.py"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the published recipe. Its views are those of Barlow Twins; its gradients were already whole."""
    return Recipe(
        source="arXiv 2105.04906; facebookresearch/vicreg at 4e12602: 73.2 % linear top-1",
        data=ImageFolder(),
        views=(View(size=size, blur=1.0), View(size=size, blur=0.1, solarize=0.2)),
        eval_view=Center(resize=size * 256 // 224, size=size),
        objective=partial(
            JointEmbedding,
            encoder=Backbone(backbone),
            head=Mlp((width, width, width), hidden_bias=True),  # unlike Barlow Twins, its hidden Linears have a bias
            loss=VICReg(invariance, variance, covariance),
        ),
        optimizer=Lars(lr=lr * batch_size / 256, weight_decay=1e-6),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        precision="bf16",  # fp16 with a gradient scaler in the paper's code
        seed=seed,
    )
