"""Files that are there whole or not at all, whenever the power goes. Standard library only.

A file is written beside its final place, flushed to the disk, then renamed over it; the folder is flushed last, since
the new name lives there. A killed write leaves only a hidden `.NAME.XXXXXXXX.tmp`.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(folder: Path, prefix: str, write: Callable[[BinaryIO], str]) -> Path:
    """The path of the new file in `folder`.

    Args:
        folder: where the file goes; it exists.
        prefix: start of the temporary name, `.PREFIX.XXXXXXXX.tmp`.
        write: writes the content and returns the file's final name, which may so depend on the content.

    Raises:
        OSError, and whatever `write` raises: the temporary file is removed, a file of that name is as it was.
    """
    # The umask decides who may read it (tempfile's 0600 would lock colleagues out). The random part keeps two writers
    # apart that should not both be there: a job cut off from its cluster may outlive the start of its successor.
    temporary = folder / f".{prefix}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as file:
            name = write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(folder)
    return folder / name


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON.

    Raises:
        ValueError, TypeError: `obj` holds NaN or infinity, or something JSON has no form for; nothing is written.
        OSError: the disk is full, the folder missing or not writable; an older file is as it was.
    """
    text = json.dumps(obj, indent=2, allow_nan=False) + "\n"

    def write(file: BinaryIO) -> str:
        file.write(text.encode())
        return path.name

    write_atomic(path.parent, path.name, write)


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the temporary files that killed writes of this prefix left. One run writes a folder at a time."""
    for path in folder.glob(f".{prefix}.*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush no folders
            raise
    finally:
        os.close(descriptor)
