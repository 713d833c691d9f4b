"""How far `crop`, `crop_batch` and `finish` are from Pillow: differences in levels of 0 .. 255, operation by operation.

    python -m benchmarks.parity [--data FOLDER] [--images 60] [--size 224] [--json FILE]

Images are those found below the folder, else generated ones (slopes, edges, grain, flat, grey and overexposed areas).
Both sides are fed the same `Drawn`. One operation alone: on the same crop, Pillow's, with SimCLR's strengths. A whole
view: once from the same crop, once each side from its own. `across first` is the crop resized in two calls, which is
what Pillow up to 12 does in one; Pillow 13 resizes some crops down before across.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL
import torch
from PIL import Image
from torch import Tensor

from augmentations import (
    BARLOW_TWINS,
    CIFAR_BARLOW_TWINS,
    CIFAR_SIMCLR,
    SIMCLR,
    Drawn,
    Rest,
    View,
    crop,
    crop_batch,
    crop_of,
    finish,
    render,
    rest_of,
    sample_random,
)
from benchmarks.losses import environment
from data.decode import as_tensor
from data.images import read_image
from tests.augmentations.pictures import across_first, picture

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
OPS = ("brightness", "contrast", "saturation", "hue")
ALWAYS = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, jitter=1.0, gray=1.0, blur=1.0, solarize=1.0)
WHOLE = {
    "Barlow Twins, first view": BARLOW_TWINS[0],
    "Barlow Twins, second view": BARLOW_TWINS[1],
    "SimCLR": SIMCLR[0],
    "Barlow Twins, CIFAR": CIFAR_BARLOW_TWINS[1],
    "SimCLR, CIFAR": CIFAR_SIMCLR[0],
}
Pair = tuple[Tensor, Tensor]  # levels of ours and Pillow's, uint8 (3, size, size)


def images(folder: Path | None, count: int) -> Iterator[Image.Image]:
    """Yields up to `count` images, spread over the folder; generated ones without a folder."""
    if folder is None:
        yield from (picture(seed, 240 + 7 * seed % 260, 300 + 11 * seed % 200) for seed in range(count))
        return
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not files:
        raise SystemExit(f"--data {folder}: no images ({', '.join(ENDINGS)}) below it")
    yield from (read_image(path) for path in files[:: max(1, len(files) // count)][:count])


def levels(pixels: Tensor, drawn: Drawn, view: View) -> Tensor:
    """Returns what `finish` makes of one crop, as uint8: normalised by nothing but the division by 255."""
    plain = dataclasses.replace(view, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return (finish(pixels[None], Rest.of(torch.tensor([rest_of(drawn)])), plain)[0] * 255).round().to(torch.uint8)


def bare(drawn: Drawn) -> Drawn:
    """Returns the crop alone."""
    return drawn._replace(jitter=(), gray=False, sigma=0.0, threshold=None)


def pairs(image: Image.Image, sample: int, size: int) -> Iterator[tuple[str, Pair]]:
    """Yields the name of each row of the table, with one image's levels."""
    pixels = as_tensor(image)
    for way in ("bicubic", "bilinear"):
        view = View(size=size, interpolation=way)
        drawn = bare(view.draw(sample_random(0, 0, sample, 0), image.height, image.width))
        yield f"crop, {way}", (crop(pixels, drawn), render(image, drawn))
        yield f"crop, {way}, across first", (crop(pixels, drawn), across_first(image, drawn))
        batch = crop_batch(pixels[None], torch.tensor([crop_of(drawn)]), view)[0]
        yield f"crop_batch, {way}, across first", (batch, across_first(image, drawn))
    drawn = dataclasses.replace(ALWAYS, size=size).draw(sample_random(0, 0, sample, 1), image.height, image.width)
    same = render(image, bare(drawn))
    factors = {op: ((op, factor),) for op, factor in drawn.jitter}
    alone = {op: bare(drawn)._replace(jitter=factors[op]) for op in OPS}
    alone["gray"] = bare(drawn)._replace(gray=True)
    alone["blur"] = bare(drawn)._replace(sigma=drawn.sigma)
    alone["solarize"] = bare(drawn)._replace(threshold=drawn.threshold)
    for name, one in alone.items():
        yield name, (levels(same, one, ALWAYS), render(image, one))
    for name, view in WHOLE.items():
        drawn = view.draw(sample_random(0, 0, sample, 2), image.height, image.width)
        theirs = render(image, drawn)
        yield f"{name}, same crop", (levels(render(image, bare(drawn)), drawn, view), theirs)
        yield name, (levels(crop(pixels, drawn), drawn, view), theirs)


class Distance:
    """How often levels differ by how much, over many images."""

    def __init__(self) -> None:
        self.counts = torch.zeros(256, dtype=torch.int64)
        self.images = 0

    def add(self, pair: Pair) -> None:
        away = (pair[0].short() - pair[1].short()).abs().flatten()
        self.counts += torch.bincount(away.long(), minlength=256)
        self.images += 1

    def summary(self) -> dict[str, float]:
        """Returns mean, 99.9 percentile and maximum of the difference, and the share of levels that differ."""
        share = self.counts.double() / self.counts.sum()
        percentile = int((share.cumsum(0) < 0.999).sum())
        mean = float((share * torch.arange(256)).sum())
        highest = int(self.counts.nonzero().max())
        return {"mean": mean, "p99.9": percentile, "max": highest, "share": float(1 - share[0]), "images": self.images}


def measure(folder: Path | None, count: int, size: int, show: Callable[[int], None] = lambda done: None) -> dict:
    """Returns the summaries of all rows, by name."""
    rows: dict[str, Distance] = {}
    for sample, image in enumerate(images(folder, count)):
        for name, pair in pairs(image, sample, size):
            rows.setdefault(name, Distance()).add(pair)
        show(sample + 1)
    return {name: distance.summary() for name, distance in rows.items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of images (default: generated ones)")
    parser.add_argument("--images", type=int, default=60, help="how many (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="of the crops and operations (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    about = {**environment(1, options.images), "pillow": PIL.__version__}
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    rows = measure(options.data, options.images, options.size)
    print(f"| difference in levels | mean | 99.9 % | max | levels that differ | n |\n|{'---|' * 6}")
    for name, row in rows.items():
        mean, share = (f"{row[key]:.1g}" if 0 < row[key] < 0.0005 else f"{row[key]:.4f}" for key in ("mean", "share"))
        print(f"| {name} | {mean} | {row['p99.9']} | {row['max']} | {share} | {row['images']} |")
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
