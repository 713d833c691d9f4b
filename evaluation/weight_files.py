"""Files of weights as flat dicts of tensors: nothing but numbers is taken from a file, and no code in it is run."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

Tensors = Mapping[str, Tensor]

SHOWN = 3  # keys named in a message


class _Unread:
    """Stands for any object in a file that is no tensor, number or text: it is made, filled and never looked at."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Returns (every tensor of a .safetensors, .pth, .pt or .ckpt file, its sha256).

    Keys are the path to the tensor: "model.module.backbone.conv1.weight" is that key of the dict under "model".

    Raises:
        ValueError: no such file, it cannot be read, or it holds no tensors by name.
    """
    if path.is_dir():
        raise ValueError(f"--weights {path} is a folder: give the file, or --run for a run of pretrain.py")
    if not path.is_file():
        raise ValueError(f"--weights {path}: no such file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # damaged bytes can make a reader raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as weights: {reason[:200]} (a .safetensors file, or a .pth that torch.save wrote: "
            "code in a file is never run)"
        ) from None
    tensors = dict(_flat(content, ""))
    if not isinstance(content, Mapping) or not tensors:
        what = some([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        whole = ", perhaps a whole pickled network: save its state_dict()" if isinstance(content, _Unread) else ""
        raise ValueError(f"{path} holds no tensors by name, only {what or 'nothing'}{whole}")
    return tensors, sha256(path)


def sha256(path: Path) -> str:
    """Returns the file's digest, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def some(keys: list[str]) -> str:
    """Returns the first few, for a message."""
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


def _unpickled(path: Path) -> Any:
    """Returns what torch.save wrote, all but torch's own, inert types replaced by `_Unread`.

    Checkpoints keep more than tensors: DINO's the command line as an argparse.Namespace and learning rates as NumPy
    numbers (main_dino.py at 7c446df), Lightning's any configuration object. `weights_only` refuses a name that it does
    not know; here each such name stands for an empty class of ours, so nothing that a file names is imported or called.
    """
    zipped = zipfile.is_zipfile(path)  # else the format before torch 1.6, whose names cannot be listed
    with warnings.catch_warnings(action="ignore"):  # torch's guesses about damaged files
        names = get_unsafe_globals_in_checkpoint(path) if zipped else ["argparse.Namespace"]
        with safe_globals([(_Unread, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _flat(content: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, Mapping | list | tuple):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _flat(value, f"{path}.{key}" if path else str(key))
