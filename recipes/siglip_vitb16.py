"""SigLIP, ViT-B/16 and a 12-layer text tower, any image-text shards.

Source: Zhai et al. 2023, arXiv 2303.15343; networks and initial scale and bias from mlfoundations/open_clip at 89fb801
(model_configs/ViT-B-16-SigLIP.json, open_clip_train/main.py); lr and clipping from google-research/big_vision at
0127fb6 (siglip_lit_coco.py, a small example with a frozen image tower). Batch and beta2: the paper as remembered
(section 4 and 4.7), not checked against it here; open_clip_train's default weight decay is 0.2, big_vision's example
has 0.01 and is followed.
Published: 76.04 % ImageNet zero-shot top-1 for the weights trained on WebLI, which is not public
(open_clip docs/openclip_results.csv). Ours: not run yet.
    python pretrain.py siglip_vitb16 --data 'SHARDS/{00000..00999}.tar' --out DIR
Differences: CLIP's byte pairs instead of a sentence-piece vocabulary of 32,000, which is not in any wheel; AdamW
instead of Adafactor; equal captions of a batch are positives of each other.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from augmentations import SIGLIP, SIGLIP_EVAL
from data import Pairs
from losses import SigLIP
from models import Backbone, Bpe, Bytes, Projection, TextTransformer
from objectives import ImageText
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    backbone: Annotated[str, "any timm network"] = "vit_base_patch16_siglip_224",
    epochs: Annotated[int, "passes over the training set; chosen here"] = 30,
    batch_size: Annotated[int, "rows of the global batch; 32768, the paper"] = 32_768,
    lr: Annotated[float, "AdamW learning rate; 1e-3, siglip_lit_coco.py"] = 1e-3,
    weight_decay: Annotated[float, "of weights; 0.01, siglip_lit_coco.py"] = 0.01,
    warmup_epochs: Annotated[float, "epochs of linear warm-up; 0.03 of the run, siglip_lit_coco.py"] = 0.9,
    text_layers: Annotated[int, "blocks of the text tower; 12, ViT-B-16-SigLIP.json"] = 12,
    tokenizer: Annotated[Literal["bpe", "bytes"], "bpe: CLIP's, from open_clip_torch's wheel"] = "bpe",
    size: Annotated[int, "side of a view in pixels; 224, ViT-B-16-SigLIP.json"] = 224,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe; both towers are 768 wide, and the image's pooled feature is the embedding."""
    tokens = Bpe(64, trim=False) if tokenizer == "bpe" else Bytes(160, trim=False)
    return Recipe(
        source="arXiv 2303.15343; open_clip at 89fb801, big_vision at 0127fb6",
        data=Pairs(train=None, test=None),
        views=(replace(SIGLIP, size=size),),
        eval_view=replace(SIGLIP_EVAL, resize=size, size=size),
        objective=partial(
            ImageText,
            encoder=Backbone(backbone, {"img_size": size}),
            text=TextTransformer(tokens, 768, text_layers, 12, causal=False, pool="last", eps=1e-6),
            head=None,
            text_head=Projection(768, bias=True),
            loss=SigLIP(),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(warmup_epochs, epochs),
        final_lr=0.0,
        clip_grad=1.0,
        precision="bf16",
        seed=seed,
        tokenizer=tokens,
    )
