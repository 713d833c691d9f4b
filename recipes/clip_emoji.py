"""CLIP, small ResNet and a bag of words, emoji in three drawing styles.

Source: ours, for two CPU cores; the loss is that of arXiv 2103.00020. Nothing was chosen on the test style: views,
network and schedule were compared by training on two of the training styles and testing on the third (docs/emoji.md).
Published: none. Ours: the table in README.
    python pretrain.py clip_emoji --data emoji.tar --out DIR
One emoji looks alike in all styles in its place, size and turn, more than in its lines and colours: crops are gentle,
nothing is mirrored.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import Pairs
from losses import NPairs
from models import Backbone, Bpe, Projection, TextTransformer
from objectives import ImageText
from training.optimizers import AdamW
from training.recipe import Recipe

MEAN, STD = (0.829, 0.783, 0.734), (0.275, 0.268, 0.334)  # of the training images
WHITE = (255, 255, 255)


def recipe(
    epochs: Annotated[int, "passes over the training set; chosen here"] = 80,
    batch_size: Annotated[int, "rows of the global batch; chosen here: small, for many steps"] = 128,
    lr: Annotated[float, "AdamW learning rate; chosen here"] = 2e-3,
    size: Annotated[int, "side of a view in pixels, of the images' 72; chosen here"] = 48,
    test: Annotated[str, "split of the retrieval at the end: test_style or test_concept"] = "test_style",
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe."""
    tokenizer = Bpe(16)
    view = View(size=size, scale=(0.7, 1.0), flip=0.0, saturation=0.4, mean=MEAN, std=STD)
    turned = replace(view, turn=0.8, angle=12.0, zoom=(0.8, 1.1), fill=WHITE)
    return Recipe(
        source="ours; loss: arXiv 2103.00020",
        data=Pairs(train="train", test=test),
        views=(turned,),
        eval_view=Center(resize=size, size=size, interpolation="bicubic", mean=MEAN, std=STD),
        objective=partial(
            ImageText,
            encoder=Backbone("resnet10t", {"channels": (32, 64, 128, 256), "global_pool": "catavgmax"}),
            text=TextTransformer(tokenizer, width=128, layers=0, heads=1, pool="mean"),
            head=Projection(128),
            text_head=Projection(128),
            loss=NPairs(temperature=0.07),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=min(3, epochs),
        final_lr=0.0,
        precision="bf16",
        seed=seed,
        evaluate=True,
        tokenizer=tokenizer,
    )
