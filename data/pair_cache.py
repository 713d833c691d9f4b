"""Indexes of shards, kept between runs: a shard is walked through once, not at every start.

One file a shard. It holds the shard's path, size and time of change, the format, and a digest of all that follows: one
that does not fit, or is damaged, is as good as none. Nothing here can stop a run: where nothing can be written, the
shard is indexed at every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path

import numpy as np

from .pair_part import Part, Skipped
from .pair_texts import Strings

FORMAT = 1  # one more whenever the index of an unchanged shard would be another
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


def load(folder: Path | None, shard: Path, reading: str, stamp: tuple[int, int]) -> Part | None:
    """Returns the index of a shard that has this stamp, or None where none is kept that fits.

    Args:
        reading: what else decides what the index holds.
    """
    if folder is None:
        return None
    try:
        content = (folder / _name(shard, reading)).read_bytes()
    except OSError:
        return None
    if _digest(memoryview(content)[DIGEST_BYTES:]) != content[:DIGEST_BYTES]:
        return None
    position = content.index(b"\n", DIGEST_BYTES) + 1
    about = json.loads(content[DIGEST_BYTES:position])
    if about["of"] != _about(shard, reading, stamp):
        return None
    found: list[np.ndarray] = []
    for kind, length in about["arrays"]:
        found.append(np.frombuffer(content, kind, length, position).copy())  # lets go of the whole
        position += found[-1].nbytes
    name_ends, caption_ends, first, offsets, sizes = found
    captions_at = position + about["names"]
    return Part(
        shard,
        Strings(content[position:captions_at], name_ends),
        Strings(content[captions_at:], caption_ends),
        first,
        offsets,
        sizes,
        tuple(Skipped(reason, path.encode("latin1"), detail) for reason, path, detail in about["skipped"]),
        stamp,
    )


def save(folder: Path | None, reading: str, part: Part) -> None:
    """Keeps the index of a shard, whole or not at all: several ranks may do so at once. A failure is no error."""
    if folder is None or part.stamp is None:
        return
    arrays = (part.names.ends, part.captions.ends, part.first, part.offsets, part.sizes)
    about = {
        "of": _about(part.path, reading, part.stamp),
        "arrays": [(array.dtype.str, len(array)) for array in arrays],
        "names": len(part.names.block),
        "skipped": [(reason, path.decode("latin1"), detail) for reason, path, detail in part.skipped],
    }
    payload = b"".join(
        [json.dumps(about).encode(), b"\n", *(a.tobytes() for a in arrays), part.names.block, part.captions.block]
    )
    temporary = folder / f".pairs.{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_digest(payload) + payload)
        temporary.replace(folder / _name(part.path, reading))
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _about(shard: Path, reading: str, stamp: tuple[int, int]) -> list[object]:
    return [FORMAT, os.fsencode(shard.absolute()).decode("latin1"), reading, *stamp]


def _name(shard: Path, reading: str) -> str:
    key = f"{os.fsencode(shard.absolute()).decode('latin1')}\n{reading}".encode()
    return f"pairs-{hashlib.blake2b(key, digest_size=12).hexdigest()}.index"


def _digest(payload: bytes | memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest()
