"""The input path against the official one: two views of an image on one core, the whole loader, and the bytes it moves.

    python -m benchmarks.input_path IMAGES [--official CHECKOUT] [--repeats 5] [--workers 2] [--json FILE]

IMAGES is a folder with a folder a class, such as ImageNet's val or a sample of it.

1. Images per CPU second on one thread: the official transform (decoding and all operations, to normalised floats)
   against our host half (decoding, two crops and flips to uint8, the numbers for the device), by each decoder.
2. CPU seconds an image end to end, user and system of this process and of all workers, start and end included: torch's
   DataLoader on torchvision's ImageFolder with the official transform, as the official code has it, against ours up to
   the batch in the ring, ready for the device. And the seconds from asking for batches to having the first.
3. Bytes an image: from workers to this process, and to the device; counted in the tensors and messages themselves.
4. Images a second of the host half by worker threads and by worker processes, as many of each.

In each repeat all variants come one after another, in turn; a ratio is the median of the repeats' own ratios, with its
lowest and highest. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import pickle
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder

from augmentations import BARLOW_TWINS
from benchmarks.losses import environment
from benchmarks.official import official_load, official_transform
from benchmarks.stores import host_half, measure
from data import decode
from data.batches import Loaded, StepBatches
from data.folder import scan
from data.loader import Loader
from data.sets import ImageSet

HAS_SIMPLEJPEG = decode.SIMPLEJPEG


class Repeated:
    """A set that has each of its images several times, to make a batch of a small sample."""

    def __init__(self, images: ImageSet, times: int) -> None:
        self._images = images
        self.classes, self.labels = images.classes, images.labels.repeat(times)

    def __len__(self) -> int:
        return len(self.labels)

    def __getattr__(self, name: str) -> Callable[[int], Any]:
        """Returns the method `name` of the set, for a position in this one."""
        return lambda index: getattr(self._images, name)(index % len(self._images))


class Bench:
    """The images, and both ways to batches of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.images = scan(options.images)
        self.transform, self.called = official_transform(options.official)
        times = -(-options.batch_size * options.batches // len(self.images))
        self.repeated: Any = Repeated(self.images, times)
        dataset = ImageFolder(str(options.images), self.transform, loader=official_load)
        self.dataset = ConcatDataset([dataset] * times)

    def official(self) -> DataLoader[Any]:
        """Returns the official loader: main.py's DataLoader; pinning, which needs a GPU, left out."""
        options = self.options
        return DataLoader(self.dataset, options.batch_size, True, num_workers=options.workers, drop_last=True)

    def ours(self) -> Loader:
        """Returns our loader up to the ring."""
        options = self.options
        batches = StepBatches(self.repeated, BARLOW_TWINS, 0, options.batch_size, 0, 1, False)
        return Loader(batches, 0, options.batches, options.workers, None)

    def views(self) -> dict[str, list[float]]:
        """Returns CPU seconds of a pass over the images on one thread, by variant, one entry a repeat."""

        def by(simplejpeg: bool) -> Callable[[int], object]:
            def work(index: int) -> None:
                decode.SIMPLEJPEG = simplejpeg
                host_half(self.images, index)

            return work

        work: dict[str, Callable[[int], object]] = {
            "official": lambda index: self.transform(official_load(self.images.name(index))),
            "ours, torchvision decodes": by(False),
        }
        if HAS_SIMPLEJPEG:
            work["ours, simplejpeg decodes"] = by(True)
        return measure(work, len(self.images), self.options.repeats)

    def loaders(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Returns (CPU seconds, seconds to the first batch) of a whole loader, by variant, one entry a repeat."""
        cpu: dict[str, list[float]] = {"official": [], "ours": []}
        first: dict[str, list[float]] = {"official": [], "ours": []}
        for repeat in range(self.options.repeats):
            for name in ("official", "ours") if repeat % 2 else ("ours", "official"):
                began, spent = time.perf_counter(), cpu_seconds()
                batches = iter(self.official() if name == "official" else self.ours())
                next(batches)
                first[name].append(time.perf_counter() - began)
                for _ in itertools.islice(batches, self.options.batches - 1):
                    pass
                del batches  # ends the workers, whose time counts from then on
                cpu[name].append(cpu_seconds() - spent)
        return cpu, first

    def bytes_moved(self) -> dict[str, tuple[float, float]]:
        """Returns bytes an image (from workers to this process, to the device), by variant."""
        views, labels = next(iter(self.official()))
        theirs = size([*views, labels])
        loader = self.ours()
        found: Loaded = next(iter(loader))
        slot = loader.ring[0]
        epoch, samples = loader.batches.samples(0)
        message = pickle.dumps(loader.batches.fill(samples, epoch, slot))  # of each part, beside the ring
        between = size([*slot.views, *slot.rest, slot.index, slot.label]) + len(message) * loader.plan.parts
        rest = [tensor for rest in found.rest for tensor in (rest.numbers, rest.rows)]
        device = size([*found.batch.views, found.batch.index, found.batch.label, *rest])
        rows = self.options.batch_size
        return {"official": (theirs / rows, theirs / rows), "ours": (between / rows, device / rows)}

    def pools(self) -> dict[str, list[float]]:
        """Returns seconds of the host half by threads and by processes, by variant, one entry a repeat."""
        workers, images = self.options.workers, len(self.repeated)

        def share(worker: int) -> None:
            for index in range(worker, images, workers):
                host_half(self.repeated, index)

        kinds: dict[str, Any] = {"processes": multiprocessing.get_context("fork").Process, "threads": threading.Thread}
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for repeat in range(-1, self.options.repeats):  # the first warms up
            for name in list(kinds)[:: -1 if repeat % 2 else 1]:
                began = time.perf_counter()
                started = [kinds[name](target=share, args=(worker,)) for worker in range(workers)]
                for worker in started:
                    worker.start()
                for worker in started:
                    worker.join()
                if repeat >= 0:
                    seconds[name].append(time.perf_counter() - began)
        return seconds


def cpu_seconds() -> float:
    """Returns the user and system seconds of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def size(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def ratio(base: list[float], other: list[float]) -> tuple[float, float, float]:
    """Returns (median, lowest, highest) of base / other, repeat by repeat."""
    each = [a / b for a, b in zip(base, other, strict=True)]
    return statistics.median(each), min(each), max(each)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures, and returns all of it."""
    bench = Bench(options)
    views, (cpu, first), moved, pools = bench.views(), bench.loaders(), bench.bytes_moved(), bench.pools()
    images = options.batch_size * options.batches
    about = environment(torch.get_num_threads(), options.repeats)
    sizes = {"images": len(bench.images), "batch_size": options.batch_size, "workers": options.workers}
    return about | {
        "official": bench.called,
        **sizes,
        "ring": str(bench.ours().ring),
        "views": {
            name: {"images_per_cpu_second": len(bench.images) / statistics.median(taken), "ratio": ratio(base, taken)}
            for base in [views["official"]]
            for name, taken in views.items()
        },
        "loader": {
            name: {
                "cpu_ms_per_image": 1e3 * statistics.median(taken) / images,
                "ratio": ratio(cpu["official"], taken),
                "first_batch_s": statistics.median(first[name]),
            }
            for name, taken in cpu.items()
        },
        "bytes": {name: {"between_processes": a, "to_device": b} for name, (a, b) in moved.items()},
        "workers_as": {
            name: {"images_per_second": len(bench.repeated) / statistics.median(taken), "ratio": ratio(base, taken)}
            for base in [pools["processes"]]
            for name, taken in pools.items()
        },
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the Markdown tables."""

    def times(found: dict[str, Any]) -> str:
        return "{:.2f} ({:.2f} to {:.2f})".format(*found["ratio"])

    parts = ("views", "loader", "bytes", "workers_as")
    yield "  ".join(f"{name} {value}" for name, value in result.items() if name not in parts)
    yield "\n| two views on one core | images / CPU second | times the official's (low to high) |\n|---|---|---|"
    for name, found in result["views"].items():
        yield f"| {name} | {found['images_per_cpu_second']:.0f} | {times(found)} |"
    columns = "CPU ms an image | times less (low to high) | first batch, s | MB between processes | MB to the device"
    yield f"\n| loader | {columns} |\n|---|---|---|---|---|---|"
    for name, found in result["loader"].items():
        moved = [f"{bytes_ / 1e6:.3f}" for bytes_ in result["bytes"][name].values()]
        cells = [f"{found['cpu_ms_per_image']:.2f}", times(found), f"{found['first_batch_s']:.2f}", *moved]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield "\n| host half by workers that are | images / second | times processes' (low to high) |\n|---|---|---|"
    for name, found in result["workers_as"].items():
        yield f"| {name} | {found['images_per_second']:.0f} | {times(found)} |"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of images, a folder a class")
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", help="of facebookresearch/barlowtwins")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4, help="that a loader makes in a repeat")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result = run(options)
    for line in table(result):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
