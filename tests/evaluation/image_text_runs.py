"""Small image-text networks that know seven colours, and the folder of a run that made them."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from augmentations import Center, normalize, render_center
from data import Pairs
from data.captions import encode
from losses import NPairs
from models import Backbone, Bytes, Projection, TextTransformer, export_weights
from objectives import Batch, ImageText, Step
from training.recipe import describe

TOKENIZER = Bytes(24)
BUILD = partial(
    ImageText,
    encoder=Backbone("resnet10t", {"channels": (8, 8, 8, 8)}),
    text=TextTransformer(TOKENIZER, width=16, layers=1, heads=2),
    head=Projection(8),
    text_head=Projection(8),
    loss=NPairs(),
)
VIEW = Center(resize=18, size=16, mean=(0.4, 0.4, 0.4))
COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 200, 40),
    "blue": (40, 40, 200),
    "yellow": (200, 200, 40),
    "pink": (200, 40, 200),
    "cyan": (40, 200, 200),
    "black": (30, 30, 30),
}


def picture(colour: str, rng: np.random.Generator) -> Image.Image:
    pixels = COLOURS[colour] + rng.normal(0, 8, size=3) + rng.normal(0, 8, size=(20, 24, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@cache
def trained() -> dict[str, torch.Tensor]:
    """Returns the state of networks that tell the colours apart: a few seconds."""
    torch.manual_seed(0)
    objective = BUILD()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    rng, step = np.random.default_rng(1), Step(objective)
    for _ in range(200):  # twice what it takes
        names = rng.choice(list(COLOURS), size=24).tolist()
        pixels = torch.stack([render_center(picture(name, rng), VIEW) for name in names])
        captions = [rng.choice([f"a {name} square", name]) for name in names]
        views = (normalize(pixels, VIEW.mean, VIEW.std),)
        index = torch.arange(len(names))
        terms, _ = step(Batch(views, index, index, encode(TOKENIZER, captions)), 0.0)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    return objective.state_dict()


def write_images(root: Path) -> Path:
    """Writes val/c<n>/<i>.png, three a colour, and beside each its two captions."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(COLOURS):
        folder = root / "val" / f"c{number}"
        folder.mkdir(parents=True)
        for i in range(3):
            picture(name, rng).save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(f"a {name} square\n{name}\n")
    return root


def write_run(folder: Path) -> Path:
    """Writes what pretrain.py leaves of a finished image-text run."""
    objective = BUILD()
    objective.load_state_dict(trained())
    folder.mkdir()
    described = {"objective": describe(BUILD), "eval_view": describe(VIEW), "data": describe(Pairs())}
    (folder / "recipe.json").write_text(json.dumps({"format": 1, "recipe": "colours", "described": described}))
    export_weights(objective, folder / "image_text" / "model.safetensors")
    return folder
