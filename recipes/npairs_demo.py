"""N-pairs (CLIP), small ResNet and a small text tower, captioned shapes that the project draws itself.

Source: ours, for two CPU cores; the loss is that of arXiv 2103.00020 (CLIP) and Sohn 2016 (N-pairs).
Published: none. Ours: the table in README.
    python pretrain.py npairs_demo --out DIR
The text tower is a bag of words: on so few captions a Transformer over bytes takes twice the time and does not come to
the shapes (zero-shot 12 % after 6 epochs, a bag of words 35 %, one block over words 17 %; n = 1 each).
"""

from functools import partial
from typing import Annotated

from augmentations import Center, View
from data import Shapes
from data.shapes_scene import COLOURS, short_caption
from losses import NPairs
from models import Backbone, Bpe, Projection, TextTransformer
from objectives import ImageText
from training.optimizers import AdamW
from training.recipe import Recipe


def recipe(
    epochs: Annotated[int, "passes over the training set; chosen here: what a minute allows"] = 7,
    batch_size: Annotated[int, "rows of the global batch; chosen here: small, for many steps"] = 64,
    images: Annotated[int, "training images to draw; the test split has 1000 more"] = 4000,
    lr: Annotated[float, "AdamW learning rate; chosen here"] = 4e-3,
    temperature: Annotated[float, "of the similarities, where it starts; 0.07, arXiv 2103.00020 section 2.5"] = 0.07,
    seed: Annotated[int, "of weights, order and views"] = 0,
) -> Recipe:
    """Returns the recipe: 64 x 64 pictures seen at 32 x 32."""
    tokenizer = Bpe(32)
    return Recipe(
        source="ours; loss: arXiv 2103.00020",
        data=Shapes(num_train=images, seed=2),
        views=(View(size=32, scale=(0.9, 1.0), jitter=0.0, gray=0.0),),
        eval_view=Center(resize=32, size=32, interpolation="bicubic"),
        objective=partial(
            ImageText,
            encoder=Backbone("resnet10t", {"channels": (32, 64, 128, 256)}),
            text=TextTransformer(tokenizer, width=32, layers=0, heads=1, pool="mean"),
            head=Projection(128),
            text_head=Projection(128),
            loss=NPairs(temperature),
        ),
        optimizer=AdamW(lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
        batch_size=batch_size,
        epochs=epochs,
        warmup_epochs=epochs / 10,
        precision="fp32",
        seed=seed,
        evaluate=True,
        tokenizer=tokenizer,
        prompts=tuple(short_caption(colour, "{}") for colour in COLOURS),  # "a red {}"
    )
