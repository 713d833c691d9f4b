"""CPU time of one view: `crop` and `finish` against `render`, and against torchvision's transforms on PIL images.

    python benchmarks/views.py [--data FOLDER] [--images 32] [--repeats 7] [--threads 1] [--json FILE]

Images (as in benchmarks/parity.py) lie decoded in memory; CIFAR's views get them at 32 x 32. The result of each side is
one normalised float32 batch of all of them. torchvision: the chain of facebookresearch/barlowtwins main.py @8e8d284
with the view's own numbers, transcribed. The sides take turns; ratios are those within a turn: median, lowest, highest.
CPU time of the whole process, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from augmentations import Rest, View, crop, finish, normalize, render, rest_of, sample_random
from benchmarks.losses import environment
from benchmarks.parity import WHOLE, images
from data.decode import as_tensor


def torchvisions(view: View) -> Callable[[Image.Image], Tensor]:
    """Returns the chain whose transforms draw from the same distributions."""

    def blur(image: Image.Image) -> Image.Image:
        low, high = view.sigma
        return image.filter(ImageFilter.GaussianBlur(low + (high - low) * float(torch.rand(()))))

    jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    solarize = transforms.Lambda(lambda image: ImageOps.solarize(image, view.threshold))
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                view.size, view.scale, view.ratio, interpolation=InterpolationMode(view.interpolation)
            ),
            transforms.RandomHorizontalFlip(view.flip),
            transforms.RandomApply([jitter], view.jitter),
            transforms.RandomGrayscale(view.gray),
            transforms.RandomApply([transforms.Lambda(blur)], view.blur),
            transforms.RandomApply([solarize], view.solarize),
            transforms.ToTensor(),
            transforms.Normalize(view.mean, view.std),
        ]
    )


def sides(pictures: list[Image.Image], view: View) -> dict[str, Callable[[], Any]]:
    """Returns what is timed: each makes the view of every picture."""
    tensors = [as_tensor(picture) for picture in pictures]
    drawn = [view.draw(sample_random(0, 0, i, 0), p.height, p.width) for i, p in enumerate(pictures)]
    numbers = torch.tensor([rest_of(d) for d in drawn])
    pixels = torch.stack([crop(t, d) for t, d in zip(tensors, drawn)]).contiguous()
    chain = torchvisions(view)

    def cropped() -> Tensor:
        for place, (image, one) in enumerate(zip(tensors, drawn)):
            pixels[place] = crop(image, one)
            rest_of(one)
        return pixels

    return {
        "crop": cropped,
        "finish": lambda: finish(pixels, Rest.of(numbers), view),
        "both": lambda: finish(cropped(), Rest.of(numbers), view),
        "render": lambda: normalize(torch.stack([render(p, d) for p, d in zip(pictures, drawn)]), view.mean, view.std),
        "torchvision": lambda: torch.stack([chain(p) for p in pictures]),
    }


def measure(pictures: list[Image.Image], view: View, repeats: int) -> dict[str, Any]:
    """Returns milliseconds a view of each side (median), and how many times faster `both` is: (median, low, high)."""
    seconds: dict[str, list[float]] = {}
    cases = sides(pictures, view)
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if repeat:  # the first warms up
                seconds.setdefault(name, []).append(time.process_time() - start)
    result: dict[str, Any] = {name: 1e3 * statistics.median(taken) / len(pictures) for name, taken in seconds.items()}
    for name in ("render", "torchvision"):
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["both"])]
        result[f"over {name}"] = (statistics.median(ratios), min(ratios), max(ratios))
    return result


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="a folder of images (default: generated ones)")
    add("--images", type=int, default=32, help="how many in a batch (default %(default)s)")
    add("--repeats", type=int, default=7, help="timed turns (default %(default)s)")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    about = {**environment(options.threads, options.repeats), "images": options.images, "pillow": PIL.__version__}
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    large = list(images(options.data, options.images))
    small = [image.resize((32, 32)) for image in large]
    rows = {}
    names = ("crop", "finish", "render", "torchvision")
    print(f"| ms a view | {' | '.join(names)} | times faster than render | than torchvision |\n|{'---|' * 7}")
    for name, view in WHOLE.items():
        rows[name] = row = measure(small if view.size == 32 else large, view, options.repeats)
        times = (f"{row[key][0]:.2f} ({row[key][1]:.2f} to {row[key][2]:.2f})" for key in row if key.startswith("over"))
        print(f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in names)} | {' | '.join(times)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
