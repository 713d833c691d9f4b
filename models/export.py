"""Writes a run's encoder for other libraries, and makes sure that they see what the run saw.

    python -m models.export RUN --to timm           timm.create_model("local-dir:...")
    python -m models.export RUN --to torchvision    a state dict for torchvision's ResNet of that name
    python -m models.export RUN --to hf             transformers' AutoModel
    python -m models.export RUN --to onnx           onnxruntime and others

The folder is RUN/export/<to>, or --out. It holds a card, README.md, made from the run's record. What was written is
loaded by the very lines on the card and compared with the run's encoder, before the folder is put in its place.

Exit codes: 0 written and equal; 2 bad input; 1 it was written, but does not give the run's features: nothing is left.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .backbone import Backbone
from .card import card
from .formats import FORMATS, features_of

ROWS = 4  # random images that are compared


class Different(Exception):  # noqa: N818  (it names the finding)
    """What was written gives other features than the run's encoder."""


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m models.export",
        description="Writes a run's encoder for another library, with a card, and checks that it is the same there.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run of pretrain.py")
    parser.add_argument("--to", required=True, choices=FORMATS, help="library that will load it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write; default RUN/export/<to>")
    args = parser.parse_args(argv)
    try:
        folder, difference, largest = export(args.run, args.to, args.out)
    except (ValueError, OSError) as error:
        print(f"models.export: {error}", file=sys.stderr)
        return 2
    except Different as error:
        print(f"models.export: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: loaded again by the lines of its README.md")
    print(f"features up to {largest:.3g} differ from the run's by up to {difference:.3g}")
    return 0


def export(run: Path, to: str, out: Path | None = None) -> tuple[Path, float, float]:
    """Writes the encoder of a finished run; returns (the folder, the largest difference of a feature, the largest one).

    Args:
        to: a key of `FORMATS`.
        out: an empty or a new folder; None: RUN/export/<to>, which replaces an earlier one.

    Raises:
        ValueError: no finished run, a package that is missing, a network that the library does not have, or `out` holds
            files. Different: the library gives other features. Nothing is left of it then.
    """
    form = FORMATS[to]
    form.check()
    spec, module = read_encoder(run)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} holds files already: take a new or an empty folder")
    folder = run / "export" / to if out is None else out
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as place:
        draft = Path(place) / folder.name
        draft.mkdir()
        form.write(module, spec, run / "encoder", draft)
        code = form.loading(spec)
        difference, largest = compare(module, code, draft, _images(run, form.any_size), form.tolerance)
        (draft / "README.md").write_text(
            card(run, form.library, code, form.packages, difference, largest), encoding="utf-8"
        )
        if folder.exists():
            folder.rename(Path(place) / "before")
        draft.rename(folder)
    return folder, difference, largest


def read_encoder(run: Path) -> tuple[Backbone, nn.Module]:
    """Returns the encoder of a finished run, as specification and as module in evaluation mode.

    Raises:
        ValueError: no run, one that has not ended, or files that do not fit each other.
    """
    record, weights = run / "recipe.json", run / "encoder" / "model.safetensors"
    if not record.is_file():
        raise ValueError(f"{run} holds no run (no recipe.json)")
    if not weights.is_file():
        raise ValueError(f"{run} has no encoder/ yet: it is written when the run ends")
    try:
        described = json.loads(record.read_text(encoding="utf-8"))["described"]["objective"]["encoder"]
        spec = Backbone(described["name"], described["kwargs"], described["stem"])
        module = spec.build()[0]
        module.load_state_dict(load_file(weights), strict=True)
    except (KeyError, TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{run}: recipe.json and encoder/ are damaged, or do not fit each other: {error}") from None
    return spec, module.eval()


def compare(
    module: nn.Module, code: str, folder: Path, batches: Sequence[Tensor], tolerance: float
) -> tuple[float, float]:
    """Returns the largest difference between the features of `module` and those of the lines that load `folder`, and
    the largest feature.

    Raises:
        Different: the first is more than `tolerance` times the second in a batch, or the shapes differ.
    """
    found = [(0.0, 0.0)]
    for images in batches:
        with torch.no_grad():
            wanted = module(images)
        features = features_of(code, folder, images)
        if features.shape != wanted.shape:
            raise Different(f"features {tuple(features.shape)} come back, not {tuple(wanted.shape)}: nothing was left")
        difference, largest = (features - wanted).abs().max().item(), wanted.abs().max().item()
        if not difference <= tolerance * largest:
            raise Different(f"features up to {largest:.3g} come back changed by {difference:.3g}: nothing was left")
        found.append((difference, largest))
    return max(found)


def _images(run: Path, any_size: bool) -> list[Tensor]:
    """Returns what features are compared on: some images of the run's size, and one of twice that, where that may be.

    The larger one tells poolings apart: small images end as a single pixel, whose mean and maximum are the same.
    """
    config = json.loads((run / "encoder" / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    channels, height, width = config["input_size"]
    factor = 2 if any_size and not config.get("fixed_input_size", True) else 1
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, channels, height, width), (1, channels, factor * height, factor * width)
    return [torch.randn(shape, generator=generator) for shape in shapes]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
