"""Masked lanes of `tl.load(pointers, mask=...)` without `other`: undefined on a GPU, 0 in the stock interpreter.

Here such a lane holds what shows wherever it is used: NaN, or a large odd number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.interpreter.patches import Patches, mend_of

_EACH_BYTE = 0x4B
"""Of a whole number: large and odd, but far enough from the largest that a small sum does not overflow."""

_NAN_BITS = {"bf16": 0x7FC0, "fp8e4b8": 0x80, "fp8e5b16": 0x80}
"""Of floating types that NumPy lacks; 0x7F of any other."""


@dataclass
class MaskedLanes:
    """hold_zero: masked lanes hold 0, as in the stock interpreter. were_read: a load left lanes undefined."""

    hold_zero: bool = False
    were_read: bool = False


_lanes = MaskedLanes()


@contextmanager
def watched_lanes(hold_zero: bool) -> Iterator[MaskedLanes]:
    """Watch masked lanes for the length of a `with`, and set what they hold; `were_read` is known at its end."""
    global _lanes
    before, _lanes = _lanes, MaskedLanes(hold_zero)
    try:
        yield _lanes
    finally:
        _lanes = before


@contextmanager
def zero_lanes(wanted: bool) -> Iterator[None]:
    """Let masked lanes hold 0 for the length of a `with`, where that is wanted."""
    lanes = _lanes
    before, lanes.hold_zero = lanes.hold_zero, lanes.hold_zero or wanted
    try:
        yield
    finally:
        lanes.hold_zero = before


@mend_of("masked lanes undefined", "correctness", ("InterpreterBuilder.create_masked_load", "_get_np_dtype"))
def masked_lanes_undefined(patches: Patches) -> None:
    """Stock fills the masked lanes of a load without `other` with 0; a GPU leaves them undefined."""
    interpreter = patches.interpreter

    def create_masked_load(stock: Any) -> Any:
        def load(self: Any, pointers: Any, mask: Any, other: Any, *how: Any, **named: Any) -> Any:
            # The mask of a block pointer comes as an array.
            if other is None and not np.asarray(mask.data).all():
                _lanes.were_read = True
                if not _lanes.hold_zero:
                    element = pointers.get_element_ty()
                    dtype = interpreter._get_np_dtype(element)
                    filled = np.full_like(pointers.data, _poison(element, dtype), dtype=dtype)
                    other = interpreter.TensorHandle(filled, element)
            return stock(self, pointers, mask, other, *how, **named)

        return load

    patches.wrap(interpreter.InterpreterBuilder, "create_masked_load", create_masked_load)


def _poison(element: Any, dtype: np.dtype[Any]) -> Any:
    """A value of a Triton type that shows: NaN, or a large odd number. dtype: NumPy's, in which the value is kept."""
    if dtype.kind == "f":
        return np.nan
    if dtype.kind == "b":
        return True
    if element.is_floating():
        return _NAN_BITS.get(element.name, 0x7F)
    return int.from_bytes(bytes([_EACH_BYTE]) * dtype.itemsize, "little")
