"""What an exported encoder is written as, and the lines that load it: they stand on its card and check it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .backbone import Backbone

ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Format:
    """A way to write an encoder.

    write: takes the module, its specification, the run's encoder folder and an empty one that it fills.
    loading: returns lines of Python that leave the features of `images` (n, 3, S, S) in `features`, given the
        specification; FOLDER is where the files are.
    packages: that one or the other needs beside torch and timm.
    library: the Hugging Face hub's name for it.
    any_size: images may be of another size than the run's, where the network allows it.
    tolerance: largest difference of a feature, relative to the largest feature, that is rounding; 0: none.
    """

    write: Callable[[nn.Module, Backbone, Path, Path], None]
    loading: Callable[[Backbone], str]
    packages: tuple[str, ...]
    library: str
    any_size: bool = True
    tolerance: float = 0.0

    def check(self) -> None:
        """Raises:
        ValueError: a package is missing.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ValueError(f"this needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def features_of(code: str, folder: Path, images: Tensor) -> Tensor:
    """Returns what the lines that load an export make of `images` (n, 3, S, S): features (n, D)."""
    names: dict[str, Any] = {"FOLDER": str(folder), "images": images}
    with torch.no_grad():
        exec(code, names)
    return torch.as_tensor(names["features"])


def _write_timm(module: nn.Module, spec: Backbone, encoder: Path, folder: Path) -> None:
    if spec.stem != "imagenet":
        raise ValueError(
            f"timm has no name for the stem {spec.stem!r} of this {spec.name}, and transformers loads by timm: "
            "take --to torchvision or --to onnx"
        )
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(encoder / name, folder / name)


def _load_timm(spec: Backbone) -> str:
    return """
import timm

encoder = timm.create_model(f"local-dir:{FOLDER}", pretrained=True, num_classes=0).eval()
features = encoder(images)
"""


def _write_transformers(module: nn.Module, spec: Backbone, encoder: Path, folder: Path) -> None:
    """Fills the folder as `_write_timm`, but without what transformers gives timm itself, and aligned.

    transformers maps the file into memory and computes on it as it lies there. On a CPU kernels round otherwise where
    weights are not aligned: features would differ from the run's by some 6e-7.
    """
    _write_timm(module, spec, encoder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "timm_wrapper"
    config.get("model_args", {}).pop("num_classes", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    align(folder / "model.safetensors")


def _load_transformers(spec: Backbone) -> str:
    return """
from transformers import AutoModel

encoder = AutoModel.from_pretrained(FOLDER).eval()
features = encoder(images).pooler_output
"""


def _write_torchvision(module: nn.Module, spec: Backbone, encoder: Path, folder: Path) -> None:
    from torchvision.models import resnet

    known = [name for name in resnet.__all__ if name.islower()]
    if spec.name not in known:
        raise ValueError(f"torchvision's ResNets are {', '.join(known)}, and this is {spec.name!r}: take --to timm")
    theirs = getattr(resnet, spec.name)()
    theirs.fc = nn.Identity()
    target, state = theirs.state_dict(), module.state_dict()
    first = "conv1.weight"  # of another shape in a CIFAR stem, which `_load_torchvision` builds
    odd = [key for key in target if key != first and (key not in state or state[key].shape != target[key].shape)]
    odd += [key for key in state if key not in target]
    if odd:
        raise ValueError(f"torchvision's {spec.name} differs in {odd[0]} from one with {dict(spec.kwargs)}: --to timm")
    torch.save(state, folder / f"{spec.name}.pth")


def _load_torchvision(spec: Backbone) -> str:
    padding = {"cifar": 1, "cifar-pad2": 2}.get(spec.stem)
    stem = f"""
encoder.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding={padding}, bias=False)  # the CIFAR stem
encoder.maxpool = torch.nn.Identity()"""
    return f"""
import torch
import torchvision

encoder = torchvision.models.{spec.name}(){stem if padding else ""}
encoder.fc = torch.nn.Identity()
encoder.load_state_dict(torch.load(f"{{FOLDER}}/{spec.name}.pth", weights_only=True))
features = encoder.eval()(images)
"""


def _write_onnx(module: nn.Module, spec: Backbone, encoder: Path, folder: Path) -> None:
    side = json.loads((encoder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]["input_size"]
    with warnings.catch_warnings(action="ignore"):  # of torch, about itself
        torch.onnx.export(
            module,
            (torch.zeros(2, *side),),
            folder / "encoder.onnx",
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=sum(p.numel() for p in module.parameters()) > 2**28,  # a file of protobuf ends at 2 GiB
            verbose=False,
        )


def _load_onnx(spec: Backbone) -> str:
    return """
import onnxruntime

session = onnxruntime.InferenceSession(f"{FOLDER}/encoder.onnx")
(features,) = session.run(None, {"images": images.numpy()})
"""


def align(path: Path) -> None:
    """Rewrites a safetensors file so that tensors begin at multiples of 64 bytes.

    Those whose own size is no such multiple (a counter, a short bias) come last, and need not.
    """
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:begin]), memoryview(content)[begin:]
    notes = {"__metadata__": header.pop("__metadata__")} if "__metadata__" in header else {}
    size = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items()}
    order = sorted(header, key=lambda name: size[name] % ALIGNMENT != 0)
    parts, end = [], 0
    for name in order:
        start, stop = header[name]["data_offsets"]
        parts.append(data[start:stop])
        header[name]["data_offsets"] = [end, end + size[name]]
        end += size[name]
    text = json.dumps(notes | header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))


FORMATS: dict[str, Format] = {
    "timm": Format(_write_timm, _load_timm, (), "timm"),
    "torchvision": Format(_write_torchvision, _load_torchvision, ("torchvision",), "torchvision"),
    "hf": Format(_write_transformers, _load_transformers, ("transformers",), "transformers"),
    "onnx": Format(_write_onnx, _load_onnx, ("onnx", "onnxscript", "onnxruntime"), "onnx", False, 1e-4),
}
