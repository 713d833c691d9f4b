"""Writing a shard: a plain tar whose bytes depend on names and data alone, there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import tarfile
from pathlib import Path

from .store import Shard
from .tar_index import BLOCK


class ShardWriter:
    """A shard in the making: a temporary file, until `finish`."""

    def __init__(self, root: Path, file: str) -> None:
        self.root, self.file = root, file
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self.samples = self.bytes = 0
        self._digest = hashlib.sha256()
        self._out = self.temporary.open("xb")

    def add(self, name: str, data: bytes) -> None:
        """Appends a file."""
        member = tarfile.TarInfo(name)  # of nobody, at no time
        member.size = len(data)
        # GNU's form: names of any length and any bytes
        self._write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        self.samples += 1

    def finish(self, stop: int) -> Shard:
        """Ends the tar and gives it its name; `stop` as in `Shard`."""
        self._write(bytes(2 * BLOCK))
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        self.temporary.replace(self.root / self.file)
        return Shard(self.file, self.samples, self.bytes, self._digest.hexdigest(), stop)

    def abandon(self) -> None:
        """Removes what was written."""
        self._out.close()
        self.temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._digest.update(data)
        self.bytes += len(data)
