"""Our zero-shot classification and retrieval against open_clip's own functions, on the same embeddings.

    python -m benchmarks.zero_shot [--images 5000] [--templates 80] [--features 512] [--seed 0] [--json FILE]

No network is trained: embeddings of texts are a fixed random function of open_clip's tokens, images are their class's
(or caption's) embedding with noise, so that some are right and some are wrong. Needs open_clip_torch, whose wheel also
holds open_clip_train. Compared are

* class embeddings: `open_clip.build_zero_shot_classifier` on ImageNet's 1,000 names and sentences;
* top-1 and top-5: torch's topk of 100 x cosine, as `open_clip_train.zero_shot` ranks; its own `accuracy` of 3.3.0
  stops with a TypeError under numpy 2.4.6, which makes no number of an array of one;
* recall with one caption an image: `open_clip_train.train.get_clip_metrics`;
* recall with five captions an image: no function of the wheel; here from the ranks in a full sort of every row.

They must agree to 0.1 points, else the exit code is 1: open_clip ranks in float32 and takes equals as they come, we
rank in float64 and count equals by lot ("missile" and "sunglasses" are each the name of two classes). What that means
where all embeddings are equal is printed, too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip_train.train import get_clip_metrics
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.prompts import templates
from evaluation.retrieval import RANKS, recall
from evaluation.zero_shot import accuracy, class_embeddings

CAPTIONS = 5
ALLOWED = 0.1  # points, of a hundred


class Stub(nn.Module):
    """What `build_zero_shot_classifier` needs of a CLIP model: texts of like tokens get like embeddings."""

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        table = torch.randn(49408, features, generator=torch.Generator().manual_seed(seed))
        table[0] = 0  # padding
        self.table = nn.Parameter(table, requires_grad=False)

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Returns the sum of the tokens' embeddings, (n, features)."""
        z = F.embedding_bag(tokens, self.table, mode="sum")
        return F.normalize(z) if normalize else z


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Returns (what it returns, seconds)."""
    start = time.perf_counter()
    found = function(*arguments)
    return found, time.perf_counter() - start


def noisy(rows: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Returns unit rows at a distance of about `noise` from the unit `rows`."""
    drawn = torch.randn(rows.shape, generator=generator) * noise / rows.shape[1] ** 0.5
    return F.normalize(rows + drawn)


def accuracy_by_topk(x: Tensor, labels: Tensor, classes: Tensor, num_templates: int) -> dict[str, float]:
    """Returns top-1 and top-5 in percent of classes (D, C), as open_clip keeps them, under our names."""
    hits = (100.0 * x @ classes).topk(5, dim=1).indices == labels[:, None]
    shares = {k: 100 * hits[:, :k].any(dim=1).double().mean().item() for k in (1, 5)}
    return {f"zero-shot-{num_templates}templates/top{k}": share for k, share in shares.items()}


def open_clip_recall(images: Tensor, captions: Tensor) -> dict[str, float]:
    """Returns open_clip_train's recall in percent under our names."""
    found = get_clip_metrics(images, captions, torch.tensor(100.0))
    ways = ("image_to_text", "text_to_image")
    return {f"retrieval/{way}/R@{k}": 100 * float(found[f"{way}_R@{k}"]) for way in ways for k in RANKS}


def recall_by_ranks(images: Tensor, captions: Tensor, owner: Tensor) -> dict[str, float]:
    """Returns recall in percent from a full sort of every row, the usual rule for several captions an image."""
    similarity, found = images @ captions.T, {}
    right = owner == torch.arange(len(images))[:, None]
    for way, rows, hit in (("image_to_text", similarity, right), ("text_to_image", similarity.T, right.T)):
        best = hit.gather(1, rows.argsort(dim=1, descending=True)).int().argmax(dim=1)  # place of the first right one
        found |= {f"retrieval/{way}/R@{k}": 100 * (best < k).double().mean().item() for k in RANKS}
    return found


def compare(images: int, num_templates: int, features: int, seed: int) -> dict[str, Any]:
    """Returns {"metrics": {name: [ours, theirs]}, "seconds": ..., "classes": largest difference, "collapsed": ...}."""
    generator = torch.Generator().manual_seed(seed)
    model, tokenizer = Stub(features, seed), open_clip.tokenizer.SimpleTokenizer()
    names, sentences = open_clip.IMAGENET_CLASSNAMES, templates(None, "imagenet")[:num_templates]
    build = open_clip.build_zero_shot_classifier
    theirs, their_s = timed(build, model, tokenizer, names, open_clip.OPENAI_IMAGENET_TEMPLATES[:num_templates])
    ours, our_s = timed(class_embeddings, lambda texts: model.encode_text(tokenizer(list(texts))), names, sentences)
    result: dict[str, Any] = {"classes": (ours - theirs.T).abs().max().item(), "seconds": {}, "metrics": {}}
    result["seconds"]["class embeddings"] = [our_s, their_s]

    def add(case: str, ours: tuple[dict[str, float], float], theirs: tuple[dict[str, float], float]) -> None:
        result["seconds"][case] = [ours[1], theirs[1]]
        for name, value in theirs[0].items():
            result["metrics"][f"{case}: {name}"] = [ours[0][name], value]

    labels = torch.randint(len(names), (images,), generator=generator)
    shown = noisy(ours[labels], 4.5, generator)

    add(
        "1,000 classes",
        timed(accuracy, shown, labels, ours, len(sentences)),
        timed(accuracy_by_topk, shown, labels, theirs, len(sentences)),
    )
    captions = F.normalize(torch.randn(images, features, generator=generator))
    pictures, own = noisy(captions, 5, generator), torch.arange(images)
    add("one caption", timed(recall, pictures, captions, own), timed(open_clip_recall, pictures, captions))
    few = max(images // CAPTIONS, 11)
    owner = torch.arange(few).repeat_interleave(CAPTIONS)
    several = noisy(pictures[:few][owner], 12, generator)
    add(
        f"{CAPTIONS} captions",
        timed(recall, pictures[:few], several, owner),
        timed(recall_by_ranks, pictures[:few], several, owner),
    )
    same, same_classes = ours[:1].expand(images, -1), ours[:1].expand(len(names), -1)
    zeros = torch.zeros_like(labels)
    result["collapsed"] = {
        "retrieval/image_to_text/R@1": [
            recall(same, same, own)["retrieval/image_to_text/R@1"],
            open_clip_recall(same, same)["retrieval/image_to_text/R@1"],
        ],
        "top1, all images of the first class": [
            accuracy(same, zeros, same_classes, 1)["zero-shot-1templates/top1"],
            accuracy_by_topk(same, zeros, same_classes.T, 1)["zero-shot-1templates/top1"],
        ],
    }
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="test images, and pairs with one caption each")
    parser.add_argument("--templates", type=int, default=80, help="of ImageNet's 80 sentences, the first so many")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    result = compare(options.images, options.templates, options.features, options.seed)
    version = importlib.metadata.version("open_clip_torch")
    print(f"open_clip_torch {version}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options}")
    print(f"class embeddings, largest difference of a number: {result['classes']:.1e}")
    print(f"{'in %':<48}{'ours':>10}{'open_clip':>11}{'difference':>12}")
    for name, (ours, theirs) in result["metrics"].items():
        print(f"{name:<48}{ours:>10.3f}{theirs:>11.3f}{ours - theirs:>12.4f}")
    print(f"\n{'all embeddings equal':<48}{'ours':>10}{'open_clip':>11}")
    for name, (ours, theirs) in result["collapsed"].items():
        print(f"{name:<48}{ours:>10.3f}{theirs:>11.3f}")
    print(f"\n{'seconds':<48}{'ours':>10}{'open_clip':>11}")
    for name, (ours, theirs) in result["seconds"].items():
        print(f"{name:<48}{ours:>10.2f}{theirs:>11.2f}")
    if options.json:
        options.json.write_text(json.dumps({"open_clip_torch": version, **result}, indent=1) + "\n")
    worst = max(abs(ours - theirs) for ours, theirs in result["metrics"].values())
    if worst > ALLOWED or result["classes"] > 1e-5:
        print(f"the two differ by {worst:.3f} points, class embeddings by {result['classes']:.1e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
