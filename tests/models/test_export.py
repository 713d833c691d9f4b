"""python -m models.export: what another library loads is the run's encoder, and its card says how, and what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from augmentations import Center, normalize, render_center
from models import Backbone, export, export_encoder, formats
from training.recipe import describe

TINY = Backbone("resnet10t", {"channels": (8, 8, 8, 8)})
VIEW = Center(resize=40, size=32, interpolation="bicubic")
METRIC = {"mean": 61.5, "std": 0.25, "n": 3, "values": [61.25, 61.5, 61.75], "interval": [58.0, 65.0], "num_images": 40}


def stir(module: nn.Module) -> nn.Module:
    """Moves BatchNorm's parameters and statistics away from where all networks have them."""
    generator = torch.Generator().manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)  # ty: ignore
    return module


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Backbone], Path]:
    """Makes the folder of a finished run of an encoder."""

    def make(spec: Backbone) -> Path:
        folder = tmp_path / "run"
        torch.manual_seed(0)
        preprocessing = {"input_size": (3, 32, 32), "mean": VIEW.mean, "std": VIEW.std, "crop_pct": 0.8}
        export_encoder(stir(spec.build()[0]), spec, folder / "encoder", preprocessing)
        described = {
            "source": "arXiv 2103.03230",
            "data": {"kind": "ImageFolder", "train": "train"},
            "eval_view": describe(VIEW),
            "objective": {"kind": "JointEmbedding", "encoder": describe(spec), "loss": {"kind": "BarlowTwins"}},
            "optimizer": {"kind": "Lars", "lr": 0.2},
            **{"batch_size": 64, "epochs": 30, "precision": "bf16", "seed": 4},
        }
        (folder / "recipe.json").write_text(json.dumps({"recipe": "bt", "knobs": {"lr": 0.2}, "described": described}))
        (folder / "eval").mkdir()
        rows = [{"encoder": "pretrained", "images": "", "metrics": {"linear-cached/top1": METRIC}}]
        (folder / "eval" / "cached.json").write_text(json.dumps({"rows": rows}))
        attempt = {"place": {"data": "/home/someone/birds"}, "world_size": 2, "hardware": {"gpus": ["H100", "H100"]}}
        (folder / "environment.json").write_text(json.dumps({"attempts": [attempt]}))
        (folder / "done.json").write_text('{"step": 777}')
        return folder

    return make


CASES = {
    "timm": (TINY, ()),
    "torchvision": (Backbone("resnet18", stem="cifar-pad2"), ()),
    "hf": (TINY, ("transformers",)),
    "onnx": (Backbone("resnet18", {"channels": (8, 8, 8, 8)}, "cifar"), ("onnx", "onnxscript", "onnxruntime")),
}


@pytest.mark.parametrize("to", CASES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of other packages, as they are imported
def test_another_library_gives_the_same_features(run: Callable[[Backbone], Path], to: str, capsys) -> None:
    spec, packages = CASES[to]
    for package in packages:
        pytest.importorskip(package)
    folder = run(spec)
    assert export.main([str(folder), "--to", to]) == 0
    largest, difference = map(float, re.findall(r"up to (\S+)", capsys.readouterr().out))
    assert difference == 0 if to != "onnx" else 0 <= difference < 1e-4 * largest
    assert sorted(path.name for path in (folder / "export").iterdir()) == [to]
    assert export.main([str(folder), "--to", to]) == 0 if to == "timm" else True  # made anew
    assert "was written" in (folder / "export" / to / "README.md").read_text()


def test_the_card_says_what_was_run_and_its_lines_see_an_image_as_the_run_did(
    run: Callable[[Backbone], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = run(TINY), tmp_path / "published"
    assert export.main([str(folder), "--to", "timm", "--out", str(out)]) == 0
    text = (out / "README.md").read_text()
    for words in (
        "| steps | 777 |",
        "| epochs, rows of a batch, seed | 30, 64, 4 |",
        "| folder of images | `birds` |",
        "| trained on | 2 x H100 |",
        "Lars(lr=0.2)",
        "BarlowTwins",
        "arXiv 2103.03230",
        "equal to the bit",
        "| pretrained | `linear-cached/top1` | 61.50 ± 0.25 (3) | 58.00 to 65.00 | 40 | eval/cached.json |",
    ):
        assert words in text, words
    assert "someone" not in text
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(50, 60, 3), dtype=np.uint8))
    image.save(out / "image.jpg")
    monkeypatch.chdir(out)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    with torch.no_grad():
        exec(code, names)
        seen = normalize(render_center(Image.open("image.jpg"), VIEW), VIEW.mean, VIEW.std)
        assert torch.equal(names["features"], export.read_encoder(folder)[1](seen[None]))


def test_an_export_that_differs_is_not_left_behind(run: Callable[[Backbone], Path], monkeypatch, capsys) -> None:
    def spoilt(module: nn.Module, spec: Backbone, encoder: Path, folder: Path) -> None:
        good.write(module, spec, encoder, folder)
        state = load_file(folder / "model.safetensors")
        state["layer4.0.bn2.bias"] += 1e-3
        save_file(state, folder / "model.safetensors")

    folder, good = run(TINY), formats.FORMATS["timm"]
    monkeypatch.setitem(formats.FORMATS, "timm", replace(good, write=spoilt))
    assert export.main([str(folder), "--to", "timm"]) == 1
    assert "come back changed" in capsys.readouterr().err
    assert list((folder / "export").iterdir()) == []


def test_torchvisions_network_that_pools_otherwise_is_found_by_its_features(run: Callable, capsys) -> None:
    folder = run(Backbone("resnet18", {"global_pool": "max"}))  # the same keys and shapes
    assert export.main([str(folder), "--to", "torchvision"]) == 1
    assert "come back changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "to", "told"),
    [
        (Backbone("resnet18", stem="cifar"), "timm", "--to torchvision or --to onnx"),
        (Backbone("resnet18", stem="cifar"), "hf", "--to torchvision or --to onnx"),
        (TINY, "torchvision", "torchvision's ResNets are resnet18"),
        (Backbone("resnet18", {"channels": (8, 8, 8, 8)}), "torchvision", "differs in layer1"),
    ],
)
def test_what_a_library_does_not_have_is_refused(
    run: Callable[[Backbone], Path], monkeypatch, spec: Backbone, to: str, told: str
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=re.escape(told)):
        export.export(run(spec), to)


def test_bad_input_is_said_and_nothing_is_written(run: Callable, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = run(TINY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    young = tmp_path / "young"
    young.mkdir()
    (young / "recipe.json").write_text("{}")
    for words, told in (
        ([str(folder), "--out", str(tmp_path / "full")], "holds files already"),
        ([str(tmp_path / "nowhere")], "no recipe.json"),
        ([str(young)], "when the run ends"),
    ):
        assert export.main([*words, "--to", "timm"]) == 2
        assert told in capsys.readouterr().err
    (folder / "eval" / "torn.json").write_text('{"rows": [')
    assert export.main([str(folder), "--to", "timm"]) == 2
    assert "torn.json is damaged" in capsys.readouterr().err
    assert list((folder / "export").iterdir()) == []
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert export.main([str(folder), "--to", "onnx"]) == 2
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err


def test_aligning_moves_tensors_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {"a": torch.randn(3), "b": torch.tensor(7), "c": torch.randn(5, 16), "d": torch.randn(32)}
    save_file(state, path, {"format": "pt"})
    formats.align(path)
    found = load_file(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header["__metadata__"] == {"format": "pt"}
    assert all((8 + size + header[name]["data_offsets"][0]) % 64 == 0 for name in ("c", "d"))
