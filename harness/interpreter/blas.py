"""The number of threads that NumPy multiplies matrices on."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# The OpenBLAS of NumPy's wheels, one with 64-bit integers, and that of distributions.
_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@dataclass(frozen=True)
class Threads:
    """OpenBLAS's own functions that read and set its number of threads."""

    get: Callable[[], int]
    set: Callable[[int], object]

    @contextmanager
    def one(self) -> Iterator[None]:
        """Multiply on one thread for the length of a `with`."""
        before = self.get()
        self.set(1)
        try:
            yield
        finally:
            self.set(before)


def find_threads() -> Threads | None:
    """Those of the OpenBLAS that NumPy is linked with, or None where it is another BLAS."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    for name in _NAMES:
        get, set_ = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
        if get is not None and set_ is not None:
            return Threads(get, set_)
    return None
