"""What a run of pretrain.py leaves when it has ended: the encoder, what it is worth, and the files worth opening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diagnostics.heatmap import montage
from models import export_encoder, export_weights
from objectives import ImageText, Objective
from parallel import World
from training.atomic import write_json_atomic
from training.recipe import describe

from .image_text import EXPORTED, format_metrics, retrieval, zero_shot
from .protocols import Cached
from .table import Row, compare, format_table, plain_rows

PICTURES = ("image_text", "cross_correlation")  # the heatmap whose course is shown: the first that the run has drawn


def finish(
    objective: Objective, recipe: Any, out: Path, root: Path | None, evaluate: bool, device: torch.device, workers: int
) -> None:
    """Exports the encoder, evaluates it, and names the files worth opening.

    Args:
        objective: trained; its encoder is (n, 3, H, W) -> (n, width).
        recipe: the `training.recipe.Recipe` it was trained by.
        out: the run folder.
        root: where the recipe's data are.

    Raises:
        OSError: a file cannot be written.
    """
    objective = objective.float()
    view, spec = recipe.eval_view, recipe.objective.keywords["encoder"]
    preprocessing = {
        "input_size": (3, view.size, view.size),
        "mean": view.mean,
        "std": view.std,
        "crop_pct": view.size / view.resize if view.resize else 1.0,
        "interpolation": view.interpolation,
    }
    worth = {"encoder": export_encoder(objective.encoder, spec, out / "encoder", preprocessing).parent}
    if isinstance(objective, ImageText):
        worth["both towers"] = export_weights(objective, out / EXPORTED)
    if evaluate:
        torch.manual_seed(recipe.seed)
        rows, table, facts = (_image_text if isinstance(objective, ImageText) else _images)(
            objective, recipe, root, device, workers
        )
        print(f"\n{table}\n", flush=True)
        worth["evaluation"] = out / "evaluation.json"
        facts |= {"data": recipe.data, "view": view}
        write_json_atomic(worth["evaluation"], {"rows": plain_rows(rows), **describe(facts)})
    for name in PICTURES:
        pictures = sorted((out / "heatmaps" / name).glob("step_*.png"))
        if pictures:
            chosen = sorted({0, len(pictures) // 2, len(pictures) - 1})
            worth["heatmaps"] = out / "heatmaps" / f"{name}.png"
            montage([pictures[n] for n in chosen], worth["heatmaps"], ["start", "middle", "end"][-len(chosen) :])
            break
    worth["metrics"] = out / "metrics.jsonl"
    worth["recipe"] = out / "recipe.json"
    print("worth opening:\n" + "\n".join(f"  {path}" for path in worth.values()), flush=True)


def _images(
    objective: Objective, recipe: Any, root: Path | None, device: torch.device, workers: int
) -> tuple[list[Row], str, dict[str, Any]]:
    """Returns linear probe and k-NN beside the untrained network and raw pixels: rows, text, and of what."""
    encoders = {
        "pretrained": objective.encoder,
        "random init": recipe.objective.keywords["encoder"].build()[0].to(device),
    }
    train_set, test_set = (recipe.data.open(root, split) for split in ("train", "test"))
    rows = compare(encoders, train_set, test_set, recipe.eval_view, World(0, 1, device), workers, recipe.seed)
    counts = {"num_train": len(train_set), "num_test": len(test_set), "classes": train_set.classes}
    return rows, format_table(rows), {"protocol": {"id": Cached().id, **describe(Cached())}, **counts}


def _image_text(
    objective: Any, recipe: Any, root: Path | None, device: torch.device, workers: int
) -> tuple[list[Row], str, dict[str, Any]]:
    """Returns retrieval, and zero-shot where the recipe has prompts, beside the untrained networks and chance."""
    objectives = {"pretrained": objective, "random init": recipe.objective().to(device)}
    images = recipe.data.open(root, "test")
    shared = (recipe.eval_view, World(0, 1, device), workers)
    rows = retrieval(objectives, recipe.tokenizer, images, *shared)
    if recipe.prompts:
        found = zero_shot(objectives, recipe.tokenizer, images, images.classes, recipe.prompts, *shared)
        rows = [Row(row.encoder, more.metrics | row.metrics) for row, more in zip(rows, found, strict=True)]
    return rows, format_metrics(rows), {"num_images": len(images)}
