"""Features kept on disk, memory-mapped: of one encoder, one view and one list of images, or they are not taken.

    DIR/<key>/about.json              what the key stands for
    DIR/<key>/part-<row>-<sha256>.npy     rows that are done: a killed extraction goes on after them
    DIR/<key>/features-<sha256>.npy       all rows, (N, D); then there are no parts

The key is a digest of all that makes features what they are, and a file's name holds the digest of its content: what
does not fit or is not whole is as good as not there. Any number of processes may write the same folder.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from training.atomic import write_atomic, write_json_atomic

FORMAT = 1  # one more whenever the same encoder, view and images would give other features
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
DIGITS = 32  # of a sha256, in names


class FeatureCache:
    """The features of one encoder on one set of images.

    Args:
        folder: of all cached features.
        about: what makes these features what they are, as JSON.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        versions = {name: metadata.version(name) for name in PACKAGES}
        self.about = {**about, "format": FORMAT, "versions": versions}
        text = json.dumps(self.about, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    def begin(self) -> None:
        """Makes the folder and says in it what it is for.

        Raises:
            ValueError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.folder / "about.json", self.about)
        except OSError as error:
            raise _not_written(self.folder, error) from None

    def whole(self) -> Path | None:
        """Returns the file of all rows, or None where there is none that is whole."""
        return next((path for path in sorted(self.folder.glob("features-*.npy")) if _verifies(path)), None)

    def parts(self) -> dict[int, Path]:
        """Returns {first row: file} of the parts that are whole."""
        found = sorted(self.folder.glob("part-*.npy"))
        return {int(path.name.split("-")[1]): path for path in found if _verifies(path)}

    def add(self, start: int, rows: Tensor) -> None:
        """Keeps rows (n, D), of which the first is row `start` of all.

        Raises:
            ValueError: they cannot be written.
        """
        self._write([rows.numpy()], f"part-{start:010}", rows.numpy().dtype, tuple(rows.shape))

    def finish(self, starts: Sequence[int]) -> Path:
        """Makes one file of the parts that begin at these rows, removes them, and returns it.

        Raises:
            ValueError: a part is missing, or the file cannot be written.
        """
        found = self.parts()
        if not found and (path := self.whole()):  # another process was faster, and has cleared up
            return path
        missing = [start for start in starts if start not in found]
        if missing:
            raise ValueError(
                f"--features {self.folder.parent}: the features from row {missing[0]} on are not there: is it a "
                "folder that all processes see?"
            )
        arrays = [np.load(found[start], mmap_mode="r") for start in starts]
        shape = (sum(len(array) for array in arrays), arrays[0].shape[1])
        path = self._write(arrays, "features", np.result_type(*{array.dtype for array in arrays}), shape)
        for part in self.folder.glob("part-*.npy"):
            part.unlink(missing_ok=True)
        return path

    def _write(self, arrays: Sequence[np.ndarray], name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Path:
        header = io.BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, form)

        def write(file: BinaryIO) -> str:
            digest = hashlib.sha256()
            for piece in (header.getvalue(), *(np.ascontiguousarray(array, dtype).data for array in arrays)):
                file.write(piece)
                digest.update(piece)
            return f"{name}-{digest.hexdigest()[:DIGITS]}.npy"

        try:
            return write_atomic(self.folder, name, write)
        except OSError as error:
            raise _not_written(self.folder, error) from None


def mapped(path: Path) -> Tensor:
    """Returns the rows of a file, (N, D), read from disk as they are asked for."""
    # "c": a tensor is writable, and what is written to this one stays in memory
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def digest_of(encoder: nn.Module) -> str:
    """Returns a sha256 of all parameters and buffers, bit by bit, and of every module's kind and plain attributes.

    Tensors alone do not tell a network: two with other numbers of heads may have the same.
    """
    sha = hashlib.sha256()
    for name, module in encoder.named_modules():
        # What the device and the mode are plays no part; hooks and the like are torch's own attributes.
        own = {key: _plain(value) for key, value in vars(module).items() if key not in _TORCHS_OWN}
        sha.update(repr((name, type(module).__module__, type(module).__qualname__, sorted(own.items()))).encode())
    sha.update(repr(sorted(tensors_of(encoder).items())).encode())
    return sha.hexdigest()


def tensors_of(encoder: nn.Module) -> dict[str, str]:
    """Returns {name: type, shape and sha256} of all parameters and buffers."""
    named = (*encoder.named_parameters(remove_duplicate=False), *encoder.named_buffers(remove_duplicate=False))
    return {name: _of_tensor(tensor) for name, tensor in named}


_TORCHS_OWN = frozenset(vars(nn.Module()))


def _plain(value: Any) -> Any:
    """Returns what of an attribute is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _of_tensor(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def _verifies(path: Path) -> bool:
    """Returns whether a file is what its name says; False where another process has just removed it."""
    try:
        with path.open("rb") as file:
            return path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS])
    except OSError:
        return False


def _not_written(folder: Path, error: OSError) -> ValueError:
    return ValueError(f"--features {folder.parent} cannot be written: {error.strerror or error}")
