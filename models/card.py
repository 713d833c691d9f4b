"""The card of an exported encoder, README.md: made from the run's record alone, so that it says what was run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

CARD = """---
library_name: {library}
pipeline_tag: image-feature-extraction
tags:
- self-supervised-learning
- image-feature-extraction
- {method}
---

# {backbone}, {recipe}

{backbone}{arguments} without a classifier, pretrained {how} by `{recipe}` ({method}) on {data}.
Source of the recipe: {source}.

| | |
|---|---|
{facts}

## Loading it

```python
{preprocessing}
FOLDER = "."  # this one{code}```

`features` is (n, D); wrap it in `torch.no_grad()` where no gradient is wanted. {checked}

## What it is worth

{worth}

## The run

Licence: the run does not know one. Who publishes these weights says under which, with a view to the images.

<details><summary>The recipe in full</summary>

```json
{described}
```

</details>
"""

PREPROCESSING = """from PIL import Image
from torchvision import transforms

seen = transforms.Compose(
    [{resize}
        transforms.CenterCrop({size}),
        transforms.ToTensor(),
        transforms.Normalize({mean}, {std}),
    ]
)
images = seen(Image.open("image.jpg").convert("RGB")).unsqueeze(0)
"""


def card(run: Path, library: str, code: str, packages: Sequence[str], difference: float, largest: float) -> str:
    """Returns the text.

    Args:
        run: its folder; `recipe.json` must be there, what else is not there is not said.
        library: the hub's name for the one that loads it.
        code: lines that load it. packages: that they need.
        difference: largest difference of a feature, as measured. largest: feature.

    Raises:
        ValueError: a file of the record is damaged.
    """
    record = _json(run / "recipe.json")
    described = record["described"]
    objective, encoder = described["objective"], described["objective"]["encoder"]
    arguments = [f"{name} {value}" for name, value in encoder["kwargs"].items()]
    arguments += [] if encoder["stem"] == "imagenet" else [f"stem {encoder['stem']}"]
    is_text = objective["kind"] == "ImageText"
    return CARD.format(
        library=library,
        method=objective["loss"]["kind"],
        backbone=encoder["name"],
        recipe=record["recipe"],
        arguments=f" ({', '.join(arguments)})" if arguments else "",
        how="with captions, the image tower's trunk only," if is_text else "without labels",
        data=_call(described["data"]),
        source=described["source"],
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(run, record).items() if value),
        preprocessing=_preprocessing(described["eval_view"]),
        code=code,
        checked=_checked(packages, difference, largest),
        worth=_worth(run),
        described=json.dumps(described, indent=1),
    )


def _facts(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    described = record["described"]
    attempts = _json(run / "environment.json").get("attempts") or [{}]
    last, git = attempts[-1], attempts[-1].get("git") or {}
    hardware = last.get("hardware") or {}
    devices = ", ".join(dict.fromkeys(hardware.get("gpus") or [])) or hardware.get("cpu") or "?"
    root = (last.get("place") or {}).get("data")
    changed = " with uncommitted changes" if git.get("diff") else ""
    versions = last.get("versions") or {}
    return {
        "steps": _json(run / "done.json").get("step"),
        "epochs, rows of a batch, seed": f"{described['epochs']}, {described['batch_size']}, {described['seed']}",
        "loss": _call(described["objective"]["loss"]),
        "optimiser": _call(described["optimizer"]),
        "precision": described["precision"],
        "knobs": ", ".join(f"{name} {value}" for name, value in record.get("knobs", {}).items()),
        "folder of images": f"`{Path(root).name}`" if root else None,
        "trained on": f"{last['world_size']} x {devices}" if "world_size" in last else None,
        "started": f"{attempts[0].get('started', '?')}, {len(attempts)} start{'s' if len(attempts) > 1 else ''}",
        "code": f"commit {git['commit']}{changed}" if git.get("commit") else None,
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def _preprocessing(view: dict[str, Any]) -> str:
    mode = f"transforms.InterpolationMode.{view['interpolation'].upper()}"
    resize = f"\n        transforms.Resize({view['resize']}, interpolation={mode})," if view["resize"] else ""
    return PREPROCESSING.format(resize=resize, size=view["size"], mean=tuple(view["mean"]), std=tuple(view["std"]))


def _checked(packages: Sequence[str], difference: float, largest: float) -> str:
    found = f"within {difference:.2g}, the largest being {largest:.2g}" if difference else "equal to the bit"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", *packages))
    return (
        "These lines were run when this was written: on random images the features are those of the run's own encoder, "
        f"{found} (CPU, float32; {versions})."
    )


def _worth(run: Path) -> str:
    """Returns a table of every evaluation in the run folder: metrics carry their protocol in their name."""
    files = [run / "evaluation.json", *sorted((run / "eval").glob("*.json"))]
    lines: list[str] = []
    for file in files:
        content = _json(file)
        for row in content.get("rows", []):
            who = f"{row['encoder']}, {row['images']}" if row.get("images") else row["encoder"]
            for name, metric in row["metrics"].items():
                spread = f" ± {metric['std']:.2f}" if metric.get("std") is not None else ""
                value = f"{metric['mean']:.2f}{spread} ({metric['n']})"
                interval = "{:.2f} to {:.2f}".format(*metric["interval"]) if metric.get("interval") else ""
                where = f"{metric.get('num_images') or ''} | {file.relative_to(run)}"
                lines.append(f"| {who} | `{name}` | {value} | {interval} | {where} |")
    if not lines:
        return "Not evaluated: `python eval_linear.py --run RUN` adds a table here when the card is made anew."
    return "\n".join(
        [
            "| encoder | metric, % | mean ± sd (seeds of the probe) | 95 % interval | images | from |",
            "|---|---|---|---|---|---|",
            *lines,
        ]
    )


def _call(described: dict[str, Any]) -> str:
    """Returns "BarlowTwins(lambd=0.0051)"."""
    fields = [f"{name}={value}" for name, value in described.items() if name != "kind"]
    return f"{described['kind']}({', '.join(fields)})"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
