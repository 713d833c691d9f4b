"""Checkpoints that survive a kill at any moment, and that are never loaded damaged.

A checkpoint is one file, `step_00001234.0123456789abcdef0123456789abcdef.pt`: the number of updates made, then the
first 128 bits of the SHA-256 of the file's bytes. The digest is in the name so that one rename publishes both. It is
needed: `torch.load` reads a file with a flipped bit without a word. It is taken of the bytes on their way to the disk,
so damage done by the disk shows. It guards against accidents; against a hostile file stands `weights_only=True`.
"""

import contextlib
import errno
import hashlib
import re
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from .atomic import remove_leftovers, sync_folder, write_atomic, write_json_atomic

NAME = re.compile(r"step_(\d{8,})\.([0-9a-f]{32})\.pt")
TEMPORARY = "checkpoint"  # prefix of temporary names
DONE = "done.json"


class CheckpointError(Exception):
    """A checkpoint could not be written or read; the message names the file, what is wrong and what to do."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """The path of the new checkpoint, which is on the disk, whole, when this returns.

    Only then older ones are removed, but for the last `keep` up to this step (this one counts). Files of later steps
    stay: they are there when the newest was damaged and the run went on from an older one.

    Args:
        folder: made if missing. One process writes it at a time.
        step: number of updates made.
        state: tensors, numbers, strings, None, and dicts, lists and tuples of these: what loads without running code.
        keep: at least 1; 2 survive a damaged file.

    Raises:
        CheckpointError: full disk, quota, folder not writable. What was there before is whole, the partial file gone.
        ValueError: `keep` or `step` out of range, or something in the state could be written but not be loaded again.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least 1 checkpoint must be kept")
    if step < 0:
        raise ValueError(f"step is {step}: must not be negative")
    for name, leaf in _leaves(state):
        if type(leaf) not in (Tensor, nn.Parameter, int, float, bool, str, type(None)):
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
            raise ValueError(f"{name} in the state is a {kind}: a checkpoint holds tensors, numbers, strings and None")

    def write(file: BinaryIO) -> str:
        hashing = _Hashing(file)
        torch.save(state, hashing)  # ty: ignore[invalid-argument-type]
        return f"step_{step:08d}.{hashing.digest.hexdigest()[:32]}.pt"

    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, TEMPORARY)
        path = write_atomic(folder, TEMPORARY, write)
    except (OSError, RuntimeError) as error:
        # A failed write leaves torch.save as a RuntimeError of its own, raised while the OSError was on its way.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(_why_not_written(folder, step, cause)) from error
    _prune(folder, path, keep)
    return path


class Newest(NamedTuple):
    """The newest checkpoint that verifies, or None; and each newer one that does not, with what is wrong with it."""

    path: Path | None
    damaged: dict[Path, str]


def newest(folder: Path) -> Newest:
    """The newest checkpoint that verifies, and those passed over.

    Damaged files are left where they are. With none whole but some damaged, starting over would hide a loss: stop and
    tell the user.

    Raises:
        CheckpointError: a file cannot be read for another reason than damage, such as missing rights.
    """
    damaged: dict[Path, str] = {}
    for _, path in reversed(_checkpoints(folder)):
        try:
            fault = _fault(path)
        except FileNotFoundError:
            continue  # pruned meanwhile
        if fault is None:
            return Newest(path, damaged)
        damaged[path] = fault
    return Newest(None, damaged)


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, tensors on the CPU. The digest is checked again, and no code of the file is run.

    Not memory-mapped: an optimiser keeps the tensors it is given, which would then hang on a file soon to be pruned.

    Raises:
        CheckpointError: missing, damaged, hostile, or no checkpoint of ours.
    """
    try:
        fault = _fault(path)
    except FileNotFoundError:
        fault = "there is no such file"
    if fault is not None:
        raise CheckpointError(f"{path} cannot be loaded: {fault}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes are what somebody wrote: torch stumbles over foreign ones in many ways
        # Not torch's own text, which goes on to explain how to run the file's code after all.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"asks for {wanted[1]}, and only tensors and plain values are loaded" if wanted else "is no checkpoint"
        raise CheckpointError(f"{path} is refused: it {holds}") from error


def all_finite(state: dict[str, Any]) -> str | None:
    """The name of the first tensor in a state that holds NaN or infinity, or None."""
    floats = [
        (name, leaf)
        for name, leaf in _leaves(state)
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and leaf.numel() > 0
    ]
    # The largest magnitude, not the sum: finite numbers cannot overflow in it.
    finite = [torch.linalg.vector_norm(tensor.detach(), ord=float("inf")).isfinite() for _, tensor in floats]
    bad = []
    for device in {flag.device for flag in finite}:  # one read back for each
        here = [i for i, flag in enumerate(finite) if flag.device == device]
        flags = torch.stack([finite[i] for i in here]).tolist()
        bad += [i for i, flag in zip(here, flags, strict=True) if not flag]
    return floats[min(bad)][0] if bad else None


def mark_done(folder: Path, step: int) -> None:
    """Record that the run in this folder is finished for good, after `step` updates: starting it again does nothing.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        write_json_atomic(folder / DONE, {"step": step})
    except OSError as error:
        raise CheckpointError(_why_not_written(folder, step, error)) from error


def is_done(folder: Path) -> bool:
    """Whether the run in this folder is finished. Needs no reading: the mark appears whole or not at all."""
    return (folder / DONE).is_file()


class _Hashing:
    """A file for `torch.save`, which only ever appends, that digests what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: memoryview | bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested dicts, lists and tuples with its dotted name."""
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            if type(key) not in (int, str):
                raise ValueError(f"{name or 'the state'} has the key {key!r}: must be a string or an integer")
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif type(value) in (list, tuple):
        for position, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{position}")
    else:
        yield name, value


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each file named as a checkpoint, by step."""
    if not folder.is_dir():
        return []
    return sorted((int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)))


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, or None."""
    match = NAME.fullmatch(path.name)
    if match is None:
        return "its name carries no digest (step_<number>.<32 hex digits>.pt)"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno != errno.EIO:  # a bad sector is damage; the others are about this process or machine
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        return f"it cannot be read: {error.strerror}"
    if digest.startswith(match[2]):
        return None
    return f"its {path.stat().st_size:,} bytes have the digest {digest[:32]}: they changed after they were written"


def _prune(folder: Path, new: Path, keep: int) -> None:
    entries = _checkpoints(folder)
    step = next(number for number, path in entries if path == new)
    older = [path for number, path in entries if number < step]
    replaced = [path for number, path in entries if number == step and path != new]
    try:
        for path in replaced + older[: max(0, len(older) - keep + 1)]:
            path.unlink(missing_ok=True)
    except OSError as error:  # the new one is safe: no reason to stop a run
        warnings.warn(f"an older checkpoint could not be removed: {error}", RuntimeWarning, stacklevel=3)
    sync_folder(folder)


def _why_not_written(folder: Path, step: int, error: OSError) -> str:
    return (
        f"step {step} could not be saved in {folder}: {error.strerror} ({_free(folder)}). Earlier checkpoints are "
        "whole. Free some space or quota, keep fewer checkpoints, or give an output folder you can write to."
    )


def _free(folder: Path) -> str:
    for place in (folder, *folder.absolute().parents):  # the folder itself may not be there, or be closed to us
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(place).free / 2**20:,.1f} MiB free"
    return "free space unknown"
