"""Controls the number of threads of NumPy's matrix products."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# The OpenBLAS of NumPy's wheels and that of distributions, each with 64-bit integers and without.
_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@dataclass(frozen=True)
class Threads:
    """OpenBLAS's functions that read and set its number of threads."""

    get: Callable[[], int]
    set: Callable[[int], object]

    @contextmanager
    def one(self) -> Iterator[None]:
        """Use one thread within a `with` block."""
        before = self.get()
        self.set(1)
        try:
            yield
        finally:
            self.set(before)


def find_threads() -> Threads | None:
    """Return the functions of the OpenBLAS that NumPy is linked with, or None for another BLAS."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    for name in _NAMES:
        get, set_ = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
        if get is not None and set_ is not None:
            return Threads(get, set_)
    return None
