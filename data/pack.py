"""Packs a set of images for training: smaller pictures in a few large files, read by `--data` like the folder.

    python -m data.pack SRC DST --longest 400 --quality 90     JPEGs, the longest side at most 400 pixels
    python -m data.pack SRC DST --raw --longest 256            pixels: nothing to decode, ten times the bytes
    python -m data.pack --verify DST                           every shard's checksum, names and counts

SRC holds train/ and val/ (any names), each with a folder a class; or is one such split; or holds CIFAR-10's batches.
Stopped at any time, the same command goes on after the last whole shard, and the result is the same to the byte.

Exit codes: 0 done; 1 --verify found damage; 2 bad input; 74 DST could not be written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import secrets
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import PIL
from PIL import features

from .images import BadImage
from .pack_image import SUBSAMPLING, Form, encode_each, encode_some, start
from .pack_shard import ShardWriter
from .pack_source import digest_of, find_splits
from .pack_verify import verify
from .progress import progress
from .sets import ImageSet
from .store import AGAIN, NAME, Packing, Shard, Store, is_store, read_store, wrong_with

LONGEST = {"jpeg": 400, "raw": 256}
QUALITY = 90
SHARD_MB = 256
AT_ONCE = 16  # images a worker takes at a time


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    try:
        options = parse(argv)
        if options.verify:
            return verify(options.verify)
        return pack(options)
    except ValueError as error:
        print(f"data.pack: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"data.pack: {error.filename or ''} {error.strerror or error}: make room or mend it; {AGAIN}",
            file=sys.stderr,
        )
        return 74
    except BrokenProcessPool:
        print(f"data.pack: a worker was killed, for memory perhaps: take fewer --workers; {AGAIN}", file=sys.stderr)
        return 74
    except KeyboardInterrupt:
        print(f"data.pack: interrupted: {AGAIN}", file=sys.stderr)
        return 130


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the options. Raises ValueError for those that do not go together."""
    parser = argparse.ArgumentParser(prog="python -m data.pack", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SRC", type=Path, nargs="?", help="folder of images")
    parser.add_argument("to", metavar="DST", type=Path, nargs="?", help="folder for the store")
    parser.add_argument("--longest", type=int, help="largest side, pixels (400; with --raw 256); none is enlarged")
    parser.add_argument("--quality", type=int, help=f"of the JPEGs that are made smaller ({QUALITY})")
    parser.add_argument("--raw", action="store_true", help="keep pixels instead of JPEGs")
    parser.add_argument(
        "--splits", nargs="+", help="folders of SRC to pack (all); or the name of an SRC that is one split"
    )
    parser.add_argument("--shard-mb", type=int, default=SHARD_MB, help=f"size of a shard, MiB ({SHARD_MB})")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="leave out unreadable images, listed in store.json"
    )
    parser.add_argument("--verify", type=Path, metavar="DST", help="check a store instead")
    options = parser.parse_args(argv)
    if options.verify:
        if options.source:
            raise ValueError(f"--verify checks a store and packs nothing: leave {options.source} out")
        return options
    if not options.to:
        raise ValueError("two folders are wanted, before the flags: python -m data.pack SRC DST")
    if options.raw and options.quality is not None:
        raise ValueError("--quality is of JPEGs, and --raw keeps pixels as they are: leave one of them out")
    kind = "raw" if options.raw else "jpeg"
    options.longest = LONGEST[kind] if options.longest is None else options.longest
    options.quality = QUALITY if options.quality is None else options.quality
    options.workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
    if options.longest < 1 or options.shard_mb < 1 or options.workers < 1:
        raise ValueError("--longest, --shard-mb and --workers should be at least 1")
    if not 1 <= options.quality <= 100:
        raise ValueError(f"--quality {options.quality} should lie between 1 and 100")
    options.form = Form(kind, options.longest, options.quality)
    return options


def pack(options: argparse.Namespace) -> int:
    """Packs, or goes on packing; returns the exit code."""
    splits = find_splits(options.source, options.splits)
    root, form = options.to, options.form
    store = begin(root, plan(options, splits))
    if store.id:
        print(f"{root} is packed already: store {store.id}")
        return 0
    for name, images in splits.items():
        store = pack_split(root, store, name, images, form, options)
    store = store.whole()
    write(root, store)
    for name, split in store.splits.items():
        size = f"{len(split.shards)} shards, {sum(shard.bytes for shard in split.shards) / 1e6:.1f} MB"
        print(f"{name}: {len(split)} images, {len(split.classes)} classes, {size}")
    if store.skipped:
        print(f"{len(store.skipped)} images could not be read and were left out: {root / NAME} lists them")
    print(f"store {store.id} in {root}: python pretrain.py RECIPE --data {root} ...")
    return 0


def plan(options: argparse.Namespace, splits: dict[str, ImageSet]) -> Store:
    """Returns the store as it is before its first shard."""
    form = options.form
    decided: dict[str, int | str] = {"longest": form.longest}
    if form.kind == "jpeg":
        decided |= {"quality": form.quality, "subsampling": SUBSAMPLING}
    decided["shard_mb"] = options.shard_mb
    source = {"path": str(options.source.absolute()), "names": digest_of(splits)}
    versions = {"pillow": PIL.__version__, "libjpeg": str(features.version("jpg"))}
    return Store(
        form.kind, decided, source, versions, {name: Packing(images.classes) for name, images in splits.items()}
    )


def begin(root: Path, planned: Store) -> Store:
    """Returns what there is of the planned store in a folder: at first nothing.

    Raises:
        ValueError: the folder holds another store, or other files; or a shard that is not as it was written.
    """
    for killed in (*root.glob(f".{NAME}.*.tmp"), *root.glob("*/.*.tar.*.tmp")):
        killed.unlink(missing_ok=True)
    if is_store(root):
        there = read_store(root)
        for name in ("kind", "options", "made_with"):
            old, new = getattr(there, name), getattr(planned, name)
            if old != new:
                raise ValueError(f"DST {root}: its store has {name} {old}, this would have {new}. Take another folder")
        if there.source["names"] != planned.source["names"]:  # the path may be another: disks are mounted here or there
            raise ValueError(
                f"DST {root}: its store is made of {there.source['path']} as it was then, and {planned.source['path']} "
                "holds other images, splits or classes. Take another folder"
            )
        wrong = [found for split in there.splits.values() for s in split.shards if (found := wrong_with(root, s))]
        if wrong:
            raise ValueError(f"{wrong[0]}: take an empty folder and pack again")
        return there
    if root.is_dir() and any(root.iterdir()):
        raise ValueError(f"DST {root} holds other files and no {NAME}: take an empty or a new folder")
    root.mkdir(parents=True, exist_ok=True)
    write(root, planned)
    return planned


def pack_split(root: Path, store: Store, name: str, images: ImageSet, form: Form, options: argparse.Namespace) -> Store:
    """Returns the store with this split in it, after every shard of it is on the disk."""
    done = store.splits[name].shards[-1].stop if store.splits[name].shards else 0
    skipped = [bad for bad in store.skipped if bad[0] != name or bad[1] < done]
    writer: ShardWriter | None = None
    files = encoded(images, form, range(done, len(images)), options.workers)
    try:
        for index, data in enumerate(progress(files, len(images) - done, f"packing {name}"), start=done):
            if isinstance(data, BadImage):
                if not options.skip_bad_images:
                    raise ValueError(f"{data}; --skip-bad-images leaves such images out and lists them in {NAME}")
                skipped.append((name, index, str(data)))
                continue
            if writer and writer.bytes + len(data) > options.shard_mb * 2**20:
                store, writer = add(root, store, name, writer.finish(index), skipped), None
            if writer is None:
                writer = ShardWriter(root, f"{name}/{len(store.splits[name].shards):06d}.tar")
            writer.add(form.member(images, index), data)
        if writer:
            store, writer = add(root, store, name, writer.finish(len(images)), skipped), None
    finally:
        if writer:
            writer.abandon()
    left_out = {index for which, index, _ in skipped if which == name}
    labels = (int(label) for index, label in enumerate(images.labels) if index not in left_out)
    runs = tuple((label, len(list(same))) for label, same in itertools.groupby(labels))
    if not runs:
        raise ValueError(f"{name}: no image of it can be read")
    split = dataclasses.replace(store.splits[name], labels=runs)
    return dataclasses.replace(store, splits=store.splits | {name: split}, skipped=tuple(skipped))


def add(root: Path, store: Store, name: str, shard: Shard, skipped: list[tuple[str, int, str]]) -> Store:
    """Returns the store with one more shard, which is on the disk, after saying so in store.json."""
    split = dataclasses.replace(store.splits[name], shards=(*store.splits[name].shards, shard))
    store = dataclasses.replace(store, splits=store.splits | {name: split}, skipped=tuple(skipped))
    write(root, store)
    return store


def encoded(images: ImageSet, form: Form, indices: range, workers: int) -> Iterator[bytes | BadImage]:
    """Yields the files of samples in order, made by `workers` processes; by this one where that is enough."""
    some = [indices[first : first + AT_ONCE] for first in range(0, len(indices), AT_ONCE)]
    if workers == 1 or len(some) < 2:
        for one in some:
            yield from encode_each(images, form, one)
        return
    fork = multiprocessing.get_context("fork")  # shares the list of images
    with ProcessPoolExecutor(min(workers, len(some)), fork, start, (images, form)) as pool:
        waiting: deque[Future[list[bytes | BadImage]]] = deque()
        try:
            for one in some:
                waiting.append(pool.submit(encode_some, one))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def write(root: Path, store: Store) -> None:
    """Writes store.json, whole or not at all."""
    path = root / NAME
    temporary = path.with_name(f".{NAME}.{secrets.token_hex(4)}.tmp")
    with temporary.open("x", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(store), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
