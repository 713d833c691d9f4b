"""CLIP, ResNet-50 and a 12-layer text tower, Conceptual Captions 3M.

Source: Radford et al. 2021, arXiv 2103.00020; mlfoundations/open_clip at 89fb801 (README, sample running code;
params.py, model_configs/RN50.json, transform.py).
Published: 19 to 20 % ImageNet zero-shot top-1 (30 epochs, batch 1024, README curve); a user's rerun with 2.81 M
pairs 18.53 % (issue 448). Ours: not run yet.
    python pretrain.py clip_rn50_cc3m --data 'CC3M/{00000..00331}.tar' --out DIR
Its authors later advised a warm-up of 1000 to 2000 steps (issue 930): --warmup-steps 2000. Differences: parameters are
drawn as timm does for this network; position embeddings of the image's attention pool decay as theirs do, the text's do
not; equal captions of a batch are positives of each other.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from augmentations import CLIP, CLIP_EVAL
from data import Pairs
from losses import NPairs
from models import Backbone, Bpe, Bytes, Projection, TextTransformer
from objectives import ImageText
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; 30, README"] = 30,
    batch_size: Annotated[int, "rows of the global batch; 8 GPUs of 128, README"] = 1024,
    lr: Annotated[float, "AdamW learning rate; 1e-3, README"] = 1e-3,
    weight_decay: Annotated[float, "of weights; 0.1, README"] = 0.1,
    warmup_steps: Annotated[int, "steps of linear warm-up; 10000, README"] = 10_000,
    width: Annotated[int, "features of the shared space; 1024, RN50.json"] = 1024,
    text_layers: Annotated[int, "blocks of the text tower; 12, RN50.json"] = 12,
    tokenizer: Annotated[Literal["bpe", "bytes"], "bpe: CLIP's, from open_clip_torch's wheel"] = "bpe",
    size: Annotated[int, "side of a view in pixels; 224, RN50.json"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the published recipe."""
    tokens = Bpe(77) if tokenizer == "bpe" else Bytes(160)
    return Recipe(
        source="arXiv 2103.00020; open_clip README at 89fb801: 19 to 20 % ImageNet zero-shot",
        data=Pairs(train=None, test=None),
        views=(replace(CLIP, size=size),),
        eval_view=replace(CLIP_EVAL, resize=size, size=size),
        objective=partial(
            ImageText,
            encoder=Backbone("resnet50_clip", {"img_size": size}),
            text=TextTransformer(tokens, width=512, layers=text_layers, heads=8),
            head=Projection(width, bias=True),  # the last matrix of open_clip's attention pool
            text_head=Projection(width),
            loss=NPairs(temperature=0.07),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay),  # params.py, for ResNets
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=0,
        warmup_steps=warmup_steps,
        final_lr=0.0,
        precision="bf16",
        seed=seed,
        tokenizer=tokens,
    )
