"""Two views of an image on one core: the official transform on the folder, against our host half on each kind of store.

    python -m benchmarks.stores IMAGES [--official CHECKOUT] [--repeats 5] [--json FILE]

IMAGES is a folder with a folder a class, such as ImageNet's val or a sample of it. Both stores are packed from it first
(JPEG, longest side 400, quality 90; raw, 256), into a temporary folder. The host half is what a data worker does: the
file's bytes, decoding, two crops and flips to uint8, and the numbers for what the device does to them; the official
transform is decoding and all of its operations to normalised floats.

Images per CPU second, one thread. Each repeat sends every image through each variant, one after another in turn; the
ratio is the median of the repeats' own ratios, with its lowest and highest. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from augmentations import BARLOW_TWINS, crop, rest_of, sample_random
from benchmarks.losses import environment
from benchmarks.official import official_load, official_transform
from data import ImageFolder, pack
from data.sets import ImageSet

SPLIT = "train"
STORES = {
    "store, 400 px q90": ["--longest", "400", "--quality", "90"],
    "store, raw 256 px": ["--raw", "--longest", "256"],
}


def host_half(images: ImageSet, index: int) -> None:
    """What a worker does for one sample: two views' pixels, and the numbers for the rest."""
    pixels = images.pixels(index)
    for number, view in enumerate(BARLOW_TWINS):
        drawn = view.draw(sample_random(0, 0, index, number), pixels.shape[1], pixels.shape[2])
        crop(pixels, drawn)
        rest_of(drawn)


def measure(work: dict[str, Callable[[int], object]], count: int, repeats: int) -> dict[str, list[float]]:
    """Returns CPU seconds of each variant for `count` images, one entry a repeat."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for repeat in range(-1, repeats):  # the first warms up
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            began = time.process_time()
            for index in range(count):
                work[name](index)
            if repeat >= 0:
                seconds[name].append(time.process_time() - began)
    return seconds


def run(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Packs, measures, prints the table; returns all of it."""
    source = options.images.absolute()
    (place / "folder").mkdir()
    (place / "folder" / SPLIT).symlink_to(source)
    for name, flags in STORES.items():
        with contextlib.redirect_stdout(io.StringIO()):
            assert pack.main([str(place / "folder"), str(place / name), *flags]) == 0
    sets = {name: ImageFolder().open(place / name, "train") for name in ("folder", *STORES)}
    count = min(options.limit or len(sets["folder"]), len(sets["folder"]))
    transform, called = official_transform(options.official)
    work: dict[str, Callable[[int], object]] = {
        "official": lambda index: transform(official_load(sets["folder"].name(index)))
    }
    for name, images in sets.items():
        work[name] = lambda index, images=images: host_half(images, index)
    seconds = measure(work, count, options.repeats)

    about = environment(1, options.repeats) | {"official": called, "images": count}
    print("  ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print("| | MB | images / CPU second | times the official's (low to high) |\n|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for name, taken in seconds.items():
        ratios = [official / ours for official, ours in zip(seconds["official"], taken, strict=True)]
        size = size_of(source if name in ("official", "folder") else place / name)
        speed, ratio = count / statistics.median(taken), (statistics.median(ratios), min(ratios), max(ratios))
        rows.append({"variant": name, "bytes": size, "images_per_cpu_second": speed, "ratio": ratio})
        print(f"| {name} | {size / 1e6:.1f} | {speed:.0f} | {ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f}) |")
    return about | {"results": rows}


def size_of(folder: Path) -> int:
    """Returns the bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of images, a folder a class")
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", help="of facebookresearch/barlowtwins")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, help="images measured (all)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("SSL_CACHE", str(Path(place) / "cache"))
        result = run(options, Path(place))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
