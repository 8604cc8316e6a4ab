"""Reads files up to a size limit, and writes them whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a new file in the same folder, sync it, then rename it: a reader finds all of it or none.

    Parallel writers are safe: each has its own file until the rename. Raises OSError, and leaves no file behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # renamed, or on a read-only disk: the first error says more
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
    """Sync the new name, where the system can. The content is on the disk already: an error loses nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
