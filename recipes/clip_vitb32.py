"""CLIP, ViT-B/32 and a 12-layer text tower, LAION-400M or any image-text shards.

Source: Radford et al. 2021, arXiv 2103.00020; mlfoundations/open_clip at 89fb801 (README, the Slurm example for
LAION-400M; params.py, model_configs/ViT-B-32.json, transform.py, docs/PRETRAINED.md).
Published: 62.96 % ImageNet zero-shot top-1 (32 epochs of LAION-400M, batch 32768, 128 A100, 36 h); OpenAI's own
weights 63.3 %. Ours: not run yet.
    python pretrain.py clip_vitb32 --data 'LAION/{00000..41455}.tar' --out DIR
Differences: parameters are drawn as timm does for this network; position embeddings do not decay; equal captions of a
batch are positives of each other.
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
    backbone: Annotated[str, "any timm network"] = "vit_base_patch32_clip_224",
    epochs: Annotated[int, "passes over the training set; 32, README"] = 32,
    batch_size: Annotated[int, "rows of the global batch; 32768, docs/PRETRAINED.md"] = 32_768,
    lr: Annotated[float, "AdamW learning rate; 5e-4, params.py"] = 5e-4,
    weight_decay: Annotated[float, "of weights; 0.2, params.py"] = 0.2,
    warmup_steps: Annotated[int, "steps of linear warm-up; 2000, README"] = 2000,
    width: Annotated[int, "features of the shared space; 512, ViT-B-32.json"] = 512,
    text_layers: Annotated[int, "blocks of the text tower; 12, ViT-B-32.json"] = 12,
    tokenizer: Annotated[Literal["bpe", "bytes"], "bpe: CLIP's, from open_clip_torch's wheel"] = "bpe",
    size: Annotated[int, "side of a view in pixels; 224, ViT-B-32.json"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the published recipe."""
    tokens = Bpe(77) if tokenizer == "bpe" else Bytes(160)
    return Recipe(
        source="arXiv 2103.00020; open_clip at 89fb801: 62.96 % ImageNet zero-shot (LAION-400M)",
        data=Pairs(train=None, test=None),
        views=(replace(CLIP, size=size),),
        eval_view=replace(CLIP_EVAL, resize=size, size=size),
        objective=partial(
            ImageText,
            encoder=Backbone(backbone, {"img_size": size}),
            text=TextTransformer(tokens, width=512, layers=text_layers, heads=8),
            head=Projection(width),
            text_head=Projection(width),
            loss=NPairs(temperature=0.07),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=weight_decay),  # params.py, for ViTs
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=0,
        warmup_steps=warmup_steps,
        final_lr=0.0,
        precision="bf16",
        seed=seed,
        tokenizer=tokens,
    )
