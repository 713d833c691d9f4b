"""What a long search through files found, kept between runs.

One file each. It holds what was looked at and in which state as a JSON line, arrays, and a digest of all that: one that
does not fit, or is damaged, is as good as none. Nothing here can stop a run: where nothing can be written, the search
is made at every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "SSL_CACHE"
DIGEST_BYTES = 16


def cache_folder() -> Path | None:
    """Returns where indexes are kept: $SSL_CACHE, else the user's cache; None where a user has no home."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    try:
        users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # as in some containers
        return None
    return Path(users) / "ssl-pretraining"


def load(folder: Path | None, kind: str, key: str) -> tuple[dict[str, Any], list[np.ndarray]] | None:
    """Returns what `save` was given under this kind and key, (about, arrays), or None where nothing whole is kept."""
    if folder is None:
        return None
    try:
        content = (folder / _name(kind, key)).read_bytes()
    except OSError:
        return None
    if _digest(memoryview(content)[DIGEST_BYTES:]) != content[:DIGEST_BYTES]:
        return None
    position = content.index(b"\n", DIGEST_BYTES) + 1
    about = json.loads(content[DIGEST_BYTES:position])
    if about["key"] != key:
        return None
    arrays: list[np.ndarray] = []
    for dtype, length in about["arrays"]:
        arrays.append(np.frombuffer(content, dtype, length, position).copy())  # lets go of the whole
        position += arrays[-1].nbytes
    return about, arrays


def save(folder: Path | None, kind: str, key: str, about: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Keeps `about`, which JSON can hold, and flat arrays, whole or not at all: several ranks may do so at once.

    A failure is no error.
    """
    if folder is None:
        return
    line = json.dumps(about | {"key": key, "arrays": [(array.dtype.str, len(array)) for array in arrays]})
    payload = b"".join([line.encode(), b"\n", *(array.tobytes() for array in arrays)])
    temporary = folder / f".{kind}.{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_digest(payload) + payload)
        temporary.replace(folder / _name(kind, key))
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def shown(path: Path) -> str:
    """Returns the absolute path as text that JSON can hold, whatever its bytes."""
    return os.fsencode(path.absolute()).decode("latin1")


def _name(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.index"


def _digest(payload: bytes | memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()
