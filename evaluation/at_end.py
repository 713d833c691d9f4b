"""What a run of pretrain.py leaves when it has ended: the encoder, what it is worth, and the files worth opening."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data import ImageSet
from diagnostics.heatmap import montage
from models import export_encoder
from training.atomic import write_json_atomic

from .table import compare, format_table, plain_rows


def finish(
    encoder: torch.nn.Module,
    recipe: Any,
    out: Path,
    sets: Sequence[ImageSet] | None,
    device: torch.device,
    workers: int,
) -> None:
    """Exports the encoder, evaluates it, and names the files worth opening.

    Args:
        encoder: (n, 3, H, W) -> (n, width), trained.
        recipe: the `training.recipe.Recipe` it was trained by.
        out: the run folder.
        sets: training and test split; None: the encoder is not evaluated.

    Raises:
        OSError: a file cannot be written.
    """
    encoder = encoder.float()
    view, spec = recipe.eval_view, recipe.objective.keywords["encoder"]
    preprocessing = {
        "input_size": (3, view.size, view.size),
        "mean": view.mean,
        "std": view.std,
        "crop_pct": view.size / view.resize if view.resize else 1.0,
        "interpolation": view.interpolation,
    }
    worth = {"encoder": export_encoder(encoder, spec, out / "encoder", preprocessing).parent}
    if sets is not None:
        torch.manual_seed(recipe.seed)
        encoders = {"pretrained": encoder, "random init": spec.build()[0].to(device)}
        rows = compare(encoders, sets[0], sets[1], view, device, workers, recipe.seed)
        print(f"\n{format_table(rows)}\n", flush=True)
        worth["evaluation"] = out / "evaluation.json"
        write_json_atomic(worth["evaluation"], {"rows": plain_rows(rows)})
    pictures = sorted((out / "heatmaps" / "cross_correlation").glob("step_*.png"))
    if pictures:
        chosen = sorted({0, len(pictures) // 2, len(pictures) - 1})
        worth["heatmaps"] = out / "heatmaps" / "cross_correlation.png"
        montage([pictures[n] for n in chosen], worth["heatmaps"], ["start", "middle", "end"][-len(chosen) :])
    worth["metrics"] = out / "metrics.jsonl"
    worth["recipe"] = out / "recipe.json"
    print("worth opening:\n" + "\n".join(f"  {path}" for path in worth.values()), flush=True)
