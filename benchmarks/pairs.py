"""Reading image-text pairs: walking through tars, indexing shards, opening, and reading at random positions.

    python -m benchmarks.pairs [--shards 20] [--pairs 5000] [--repeats 5] [--folder DIR]

Shards are made in a temporary folder: members of 6 to 10 KB with .txt and .json beside them, as img2dataset writes
them, so they lie in the page cache. CPU seconds of this process, best of the repeats, one core. What the walk finds is
compared with tarfile's members first.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data import PairSet, open_pairs
from data.tar_index import members

WORDS = ["a", "photo", "of", "the", "dog", "that", "runs", "over", "wet", "grass", "in", "early", "spring"]


def write_shard(path: Path, pairs: int) -> None:
    rng = random.Random(path.name)
    with tarfile.open(path, "w") as tar:
        for number in range(pairs):
            caption = " ".join(rng.choices(WORDS, k=12))
            content = {"jpg": bytes(6000 + rng.randrange(4000)), "txt": caption.encode()}
            content["json"] = b'{"caption": "%s", "url": "http://x/%d"}' % (caption.encode(), number)
            for suffix, data in content.items():
                member = tarfile.TarInfo(f"{path.stem}{number:04d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def theirs(path: Path) -> list[tuple[bytes, int, int]]:
    with tarfile.open(path) as tar:
        return [(m.name.encode(), m.offset_data, m.size) for m in tar.getmembers()]


def seconds(repeats: int, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> str:
    times = []
    for _ in range(repeats):
        before()
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return f"{min(times):8.3f} s CPU (worst {max(times):.3f})"


def read_shards(pairs: PairSet, positions: list[int]) -> None:
    for index in positions:
        part, row = pairs.parts.find(index)
        assert part.stamp is not None
        pairs.parts.shards.read(part.path, part.stamp, int(part.offsets[row]), int(part.sizes[row]))


def read_captions_lazily(pairs: PairSet, files: dict[Path, int], positions: list[int]) -> None:
    for index in positions:
        part, row = pairs.parts.find(index)
        os.pread(files[part.path], 60, int(part.offsets[row])).decode()


def held_bytes(pairs: PairSet) -> tuple[float, float]:
    """Returns bytes held a pair: (captions, all else)."""
    captions = sum(len(part.captions.block) for part in pairs.parts.parts)
    arrays = [a for p in pairs.parts.parts for a in (p.names.ends, p.captions.ends, p.first, p.offsets, p.sizes)]
    rest = sum(array.nbytes for array in arrays) + sum(len(part.names.block) for part in pairs.parts.parts)
    return captions / len(pairs), rest / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5000, help="in each shard")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="also open this folder of pairs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        shards = [Path(place) / "shards" / f"{number:05d}.tar" for number in range(options.shards)]
        shards[0].parent.mkdir()
        for shard in shards:
            write_shard(shard, options.pairs)
        measure(shards, Path(place) / "cache", options)


def measure(shards: list[Path], cache: Path, options: argparse.Namespace) -> None:
    def say(what: str, value: object) -> None:
        print(f"{what:44} {value}", flush=True)

    def opened() -> PairSet:
        return open_pairs(shards[0].parent, cache=cache)

    assert [(m.name, m.offset, m.size) for m in members(shards[0])] == theirs(shards[0])
    total = 3 * options.pairs * len(shards)
    say(
        f"walk, {total} members", seconds(options.repeats, lambda: [sum(1 for _ in members(shard)) for shard in shards])
    )
    say("tarfile, the same", seconds(options.repeats, lambda: [theirs(shard) for shard in shards]))
    forget = partial(shutil.rmtree, cache, ignore_errors=True)
    say(f"index, {total // 3} pairs", seconds(options.repeats, opened, forget))
    say("open from the cache", seconds(options.repeats, opened))
    pairs = opened()
    positions = np.random.default_rng(0).permutation(len(pairs))[:50_000].tolist()
    say(f"captions, {len(positions)}", seconds(options.repeats, lambda: [pairs.texts(i) for i in positions]))
    files = {shard: os.open(shard, os.O_RDONLY) for shard in shards}
    lazily = seconds(options.repeats, lambda: read_captions_lazily(pairs, files, positions))
    say("the same, were they read from the shards", lazily)
    say(f"images' bytes, {len(positions)}", seconds(options.repeats, lambda: read_shards(pairs, positions)))
    say("bytes held a pair: captions, the rest", "{:.1f} {:.1f}".format(*held_bytes(pairs)))
    table = cache.parent / "table" / "pairs.tsv"
    table.parent.mkdir()
    for number in range(100):  # so many must be there
        (table.parent / f"{number}.jpg").touch()
    rows = [f"{number}.jpg\ta photo of a dog on the grass, number {number}" for number in range(300_000)]
    table.write_text("\n".join(["filepath\ttitle", *rows]))
    say("table, 300000 rows", seconds(options.repeats, lambda: open_pairs(table)))
    if options.folder:
        folder = options.folder
        say(f"folder, {len(open_pairs(folder))} pairs", seconds(options.repeats, lambda: open_pairs(folder)))


if __name__ == "__main__":
    main()
