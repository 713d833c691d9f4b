"""A folder of generated JPEGs that cost what ImageNet's cost to read: usual sizes, some 110 kB each."""

from __future__ import annotations

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (375, 500), (500, 333), (640, 480), (500, 400))  # (width, height), as most of ImageNet
NOISE = 11.0  # levels: what makes a JPEG of that size as large as a photograph's


def make_images(folder: Path, count: int, toy: bool = False) -> None:
    """Writes `count` images to folder/train/<one of ten classes>; toy: of 64 x 48 pixels, in this process."""
    jobs = [(folder, number, toy) for number in range(count)]
    if toy:
        for job in jobs:
            make_image(*job)
        return
    with Pool() as pool:
        pool.starmap(make_image, jobs, chunksize=16)


def make_image(folder: Path, number: int, toy: bool) -> None:
    """Writes one picture: smooth colours with coarser and finer texture, another for each number."""
    random = np.random.default_rng(number)
    width, height = (64, 48) if toy else SIZES[number % len(SIZES)]
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((4, 90.0), (24, 40.0), (120, 25.0)):
        coarse = random.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        layer = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        pixels += strength * np.stack([np.asarray(each) for each in layer], axis=-1)
    pixels += random.normal(0, NOISE, pixels.shape)
    place = folder / "train" / f"n{number % 10:08d}"
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.JPEG", quality=90)
