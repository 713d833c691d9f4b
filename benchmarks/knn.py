"""k-NN against faiss-cpu's flat index, and against scikit-learn's classifier on the same features.

    python -m benchmarks.knn [--train 50000] [--test 10000] [--features 512] [--repeats 5] [--threads 1] [--json FILE]

* Seconds of the search alone, from rows of any length to neighbours (both normalise, faiss builds its index), for k of
  20 and 200, alternating which goes first; median of the repeats' ratios, lowest and highest. The goal is to be level:
  at most 1.1. What the product of both matrices takes alone, by numpy and by torch, stands beside it.
* Top-1 of `knn-k20-T0.07` and `knn-k200-T0.1` against `sklearn.neighbors.KNeighborsClassifier` with the same weights;
  they must agree to 0.1 points.

Features are planted Gaussians, 100 classes that overlap. The exit code is 1 where a goal is missed. Needs scikit-learn;
without faiss-cpu there is no race.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits  # comes with scikit-learn
from torch import Tensor
from torch.nn import functional as F

from benchmarks.losses import environment
from evaluation import knn
from evaluation.protocols import PROTOCOLS, Neighbours

# by name: where it is not installed, type checkers need not find it
faiss: Any = import_module("faiss") if find_spec("faiss") else None
CPU = torch.device("cpu")
NUM_CLASSES, DISTANCE = 100, 4.5
LEVEL, POINTS = 1.1, 0.1
NEIGHBOURS = [protocol for protocol in PROTOCOLS.values() if isinstance(protocol, Neighbours)]


def planted(num: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns (rows (num, features), classes (num,)): unit Gaussians whose centres are DISTANCE from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(NUM_CLASSES, features, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(NUM_CLASSES, (num,), generator=generator)
    return torch.randn(num, features, generator=generator) + DISTANCE * F.normalize(centres)[labels], labels


def by_faiss(train: Tensor, test: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (cosine similarities, positions) by the flat index."""
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(F.normalize(train).numpy())
    return index.search(F.normalize(test).numpy(), k)


def product(train: Tensor, test: Tensor, multiply: Callable[..., Any]) -> None:
    """Makes every similarity, as `knn.nearest` does, and looks at none."""
    bank = F.normalize(train).T
    kept = torch.empty(min(knn.QUERIES, len(test)), len(train))
    for rows in F.normalize(test).split(knn.QUERIES):
        multiply(rows, bank, out=kept[: len(rows)])


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def race(train: Tensor, test: Tensor, k: int, repeats: int) -> dict[str, Any]:
    """Returns the ratios of our time to faiss's, of the product's to faiss's, and how many neighbours are the same."""
    found = knn.nearest(train, test, k, CPU)[1].sort(dim=1).values
    same = (found == torch.from_numpy(by_faiss(train, test, k)[1]).sort(dim=1).values).double().mean().item()
    ours, theirs, products, by_torch = [], [], [], []
    for repeat in range(repeats):
        sides = [(ours, knn.nearest, (train, test, k, CPU)), (theirs, by_faiss, (train, test, k))]
        for times, function, arguments in sides if repeat % 2 else sides[::-1]:
            times.append(seconds(function, *arguments))
        products.append(seconds(product, train, test, knn.multiply))
        by_torch.append(seconds(product, train, test, torch.mm))
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return {
        "k": k,
        "same_neighbours": same,
        "n": repeats,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "product_ratio": statistics.median([own / other for own, other in zip(products, theirs, strict=True)]),
        "torch_product_ratio": statistics.median([own / other for own, other in zip(by_torch, theirs, strict=True)]),
        "seconds": statistics.median(ours),
        "faiss_seconds": statistics.median(theirs),
    }


def agreement(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, protocol: Neighbours) -> dict[str, Any]:
    """Returns top-1 in percent by both, and the share of equal answers."""
    k, temperature = protocol.k, protocol.temperature
    ours = knn.predict(train, labels, test, NUM_CLASSES, k, temperature, CPU)
    classifier = KNeighborsClassifier(k, metric="cosine", weights=lambda far: np.exp((1 - far) / temperature))
    theirs = torch.from_numpy(classifier.fit(train.numpy(), labels.numpy()).predict(test.numpy()))
    top1, sklearn_top1 = (100 * (found == test_labels).double().mean().item() for found in (ours, theirs))
    return {
        "protocol": protocol.id,
        "top1": top1,
        "sklearn_top1": sklearn_top1,
        "agree": (ours == theirs).double().mean().item(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if faiss:
        faiss.omp_set_num_threads(args.threads)
    threadpool_limits(args.threads, "blas")  # numpy's
    (train, labels), (test, test_labels) = (
        planted(num, args.features, 1 + n) for n, num in enumerate((args.train, args.test))
    )

    result: dict[str, Any] = {
        "environment": environment(args.threads, args.repeats) | {"faiss": faiss and faiss.__version__}
    }
    print(f"{args.train} x {args.features} rows, {args.test} queries, {args.threads} thread(s), n = {args.repeats}\n")
    result["speed"] = [race(train, test, protocol.k, args.repeats) for protocol in NEIGHBOURS if faiss]
    if not faiss:
        print("faiss-cpu is not installed: no race")
    for row in result["speed"]:
        print(
            "k {k}: {seconds:.2f} s, faiss {faiss_seconds:.2f} s: {ratio:.2f} ({low:.2f} to {high:.2f}) of its time, "
            "the product alone {product_ratio:.2f}, by torch {torch_product_ratio:.2f}; "
            "{same_neighbours:.2%} of the neighbours are the same".format(**row)
        )
    result["agreement"] = [agreement(train, labels, test, test_labels, protocol) for protocol in NEIGHBOURS]
    for row in result["agreement"]:
        print(
            "{protocol}: top-1 {top1:.2f} %, scikit-learn {sklearn_top1:.2f} %; {agree:.2%} of the answers are the "
            "same".format(**row)
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    level = all(row["ratio"] <= LEVEL for row in result["speed"])
    return 0 if level and all(abs(row["top1"] - row["sklearn_top1"]) <= POINTS for row in result["agreement"]) else 1


if __name__ == "__main__":
    sys.exit(main())
