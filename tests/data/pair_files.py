"""Image-text pairs in the forms that are read, made in tests."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

Files = dict[str, bytes]  # by path


def picture(level: int, kind: str = "PNG") -> bytes:
    """Returns a small image file, red at `level`."""
    file = io.BytesIO()
    Image.new("RGB", (10, 12), (level, 0, 0)).save(file, kind)
    return file.getvalue()


def some(count: int, folder: str = "", start: int = 0) -> Files:
    """Returns `count` pairs, image n red at n with the caption "number n"."""
    files = {}
    for n in range(start, start + count):
        files[f"{folder}{n:03d}.png"] = picture(n)
        files[f"{folder}{n:03d}.txt"] = f"number {n}\n".encode()
    return files


def tar(path: Path, files: Files | list[tuple[str, bytes]]) -> Path:
    """Writes a tar and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tree(folder: Path, files: Files) -> Path:
    """Writes files under a folder and returns it."""
    for name, data in files.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def real_tar(name: str, folder: Path) -> Path:
    """Returns the archive of a set in SSL_DATA, gunzipped into `folder`; skips where it is not there."""
    place = os.environ.get("SSL_DATA")
    packed = Path(place) / f"{name}.tar.gz" if place else None
    if packed is None or not packed.is_file():
        pytest.skip(f"SSL_DATA is not set to a folder that holds {name}.tar.gz")
    path = folder / f"{name}.tar"
    with gzip.open(packed) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path
