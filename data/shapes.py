"""Captioned pictures of shapes that the project draws itself: a set to learn from with nothing to download.

Each 64 x 64 picture shows one of ten shapes, the label, in one of nine colours, four fills and three sizes, tilted, at
one of six places, on a patterned background with confetti, uneven light and grain; its caption says so in a sentence,
and a second one names colour and shape.

Picture i is a function of (seed, split, i), the same to the bit on every machine.

    python -m data.shapes DIR [--train N --val N --seed S]
"""

import csv
import sys
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from .decode import as_tensor
from .shapes_render import render
from .shapes_scene import SHAPES, SIDE, scene

Split = Literal["train", "val"]


class ShapesSet:
    """An image set in memory: `num_images` pictures of one split, their labels and captions.

    Raises: ValueError for another split, a count below 1 or a seed that is no whole number.
    """

    classes: tuple[str, ...] = SHAPES

    def __init__(self, split: Split, num_images: int, seed: int = 0):
        if split not in get_args(Split):
            raise ValueError(f"split {split!r}: there are {', '.join(get_args(Split))}")
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images {num_images!r}: a whole number from 1 up")
        if type(seed) is not int:
            raise ValueError(f"seed {seed!r}: a whole number")
        self.split = split
        self.scenes = tuple(scene(seed, split, index) for index in range(num_images))
        self.labels = np.array([self.classes.index(scene.shape) for scene in self.scenes], dtype=np.int64)  # (N,)
        self.captions = tuple(scene.caption for scene in self.scenes)
        self.array = np.empty((num_images, SIDE, SIDE, 3), dtype=np.uint8)
        for start in range(0, num_images, 20):  # as many as the processor's cache holds
            self.array[start : start + 20] = render(self.scenes[start : start + 20])

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, index: int) -> Image.Image:
        """The picture, RGB, SIDE x SIDE."""
        return Image.fromarray(self.array[index])

    def pixels(self, index: int) -> Tensor:
        """The picture, uint8 (3, SIDE, SIDE)."""
        return as_tensor(self.array[index])

    def texts(self, index: int) -> tuple[str, ...]:
        """The picture's sentence, and the short caption that names colour and shape."""
        return self.captions[index], self.scenes[index].short

    def name(self, index: int) -> str:
        """What a message calls the picture, for example "shapes/train/000012 (red striped star)"."""
        scene = self.scenes[index]
        return f"shapes/{self.split}/{index:06d} ({scene.fill.colour} {scene.fill.pattern} {scene.shape})"


def write(folder: Path, train: int = 4000, val: int = 1000, seed: int = 0) -> None:
    """Writes both splits for other tools: DIR/train/star/000008.png, its captions in 000008.txt, DIR/train/pairs.csv.

    Args:
        folder: where to write; must be empty or not yet there
        train: pictures to train on
        val: pictures to validate on
        seed: another seed gives other pictures

    Raises: ValueError for a folder that holds something, or for what `ShapesSet` refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not empty; name a new folder, nothing is overwritten")
    for images in [ShapesSet("train", train, seed), ShapesSet("val", val, seed)]:
        for name in images.classes:
            (folder / images.split / name).mkdir(parents=True)
        pairs = [("image", "caption")]
        for index in range(len(images)):
            path = f"{images.scenes[index].shape}/{index:06d}.png"
            images.image(index).save(folder / images.split / path)
            texts = images.texts(index)
            (folder / images.split / path).with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
            pairs += [(path, text) for text in texts]
        with (folder / images.split / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(pairs)


if __name__ == "__main__":
    import tyro

    try:
        tyro.cli(write, config=(tyro.conf.PositionalRequiredArgs,))
    except ValueError as error:
        print(f"data.shapes: {error}", file=sys.stderr)
        sys.exit(2)
