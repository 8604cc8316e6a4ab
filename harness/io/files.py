"""Files that are read whole within a bound, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a new file beside, force it to the disk, then give it its name: a reader meets all of it or none.

    Writers in parallel are safe: each has a file of its own until then. Raises OSError, and leaves nothing behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone already, or on a disk that takes no change: the first error says more
            temporary.unlink()
    _sync_folder(path.parent)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file (a pipe would block). Raises OSError, and ValueError for any other or a larger one."""
    if path.exists() and not path.is_file():
        raise ValueError("It is not a regular file.")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"It is larger than {limit} bytes.")
    return content


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk, where the system can: the content is there already, and a refusal loses none."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
