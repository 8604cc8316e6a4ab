"""Triton's CPU interpreter (`TRITON_INTERPRET=1`), corrected and made faster for any kernel.

The mends replace internals of Triton, so each names the versions it was checked with and what it touches. On any
other version, or if something is missing, the stock interpreter stays unchanged, and `status()` says so.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.interpreter import autotuned, correctness, masked_lanes, speed  # noqa: F401  (they register the mends)
from harness.interpreter.patches import KNOWN_VERSIONS, MENDS, Patches

__all__ = ["Mended", "mend", "restore", "status", "stock"]


@dataclass(frozen=True)
class Mended:
    """The state of the interpreter: the version of Triton, and the mends applied and skipped (name, reason)."""

    triton: str
    known: bool
    applied: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if not self.applied:
            reasons = dict.fromkeys(reason for _, reason in self.skipped)
            return f"triton {self.triton}, stock interpreter: {'; '.join(reasons) or 'not mended'}"
        line = f"triton {self.triton}, interpreter mended: {', '.join(self.applied)}"
        if self.skipped:
            line += "; left as it is: " + ", ".join(f"{name} ({reason})" for name, reason in self.skipped)
        return line


_current: tuple[Mended, Patches | None] | None = None


def mend() -> Mended:
    """Apply every mend for the installed version of Triton; a second call changes nothing."""
    global _current
    if _current is None:
        _current = _apply()
    return _current[0]


def status() -> Mended:
    """Return what is applied now."""
    if _current is not None:
        return _current[0]
    version = _version()
    return Mended(version, _minor(version) in KNOWN_VERSIONS)


def restore() -> None:
    """Restore the stock interpreter."""
    global _current
    if _current is not None and _current[1] is not None:
        _current[1].undo()
    _current = None


@contextmanager
def stock() -> Iterator[None]:
    """Use the stock interpreter within a `with` block."""
    was_mended = _current is not None
    restore()
    try:
        yield
    finally:
        if was_mended:
            mend()


def _apply() -> tuple[Mended, Patches | None]:
    version = _version()
    if _minor(version) not in KNOWN_VERSIONS:
        unknown = f"mends are known for {', '.join(KNOWN_VERSIONS)}"
        return Mended(version, False, skipped=tuple((each.name, unknown) for each in MENDS)), None
    patches = Patches(importlib.import_module("triton.runtime.interpreter"))
    applied: list[str] = []
    skipped: list[tuple[str, str]] = []
    for each in (known for known in MENDS if _minor(version) in known.versions):
        obstacle = each.obstacle(patches.interpreter) or each.apply(patches)
        if obstacle is None:
            applied.append(each.name)
        else:
            skipped.append((each.name, obstacle))
    return Mended(version, True, tuple(applied), tuple(skipped)), patches


def _version() -> str:
    """Return the version of the installed Triton."""
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return "not installed"


def _minor(version: str) -> str | None:
    """Return `major.minor` of a release; None for anything else, such as a build from a repository."""
    release = re.fullmatch(r"(\d+\.\d+)\.\d+", version)
    return release[1] if release else None
