"""Memory layouts of a (B, H, N, d) tensor: one decorated function per layout.

A layout gives strides and an offset in elements, no data. Distinct elements must have distinct places, except along
expanded dimensions (stride 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Placement:
    """Strides and offset of a tensor, in elements from the start of its buffer."""

    strides: tuple[int, int, int, int]
    offset: int = 0


Layout = Callable[[Shape], Placement]
LAYOUTS: dict[str, Layout] = {}
"""The layouts of q, k and v."""


def layout(function: Layout) -> Layout:
    """Register a layout under the function's name."""
    LAYOUTS[function.__name__] = function
    return function


def _dense(shape: Shape) -> tuple[int, int, int, int]:
    _, H, N, d = (max(1, size) for size in shape)
    return (H * N * d, N * d, d, 1)


@layout
def contiguous(shape: Shape) -> Placement:
    """(B, H, N, d) in row-major order."""
    return Placement(_dense(shape))


@layout
def bshd(shape: Shape) -> Placement:
    """A (B, N, H, d) tensor seen through transpose(1, 2), as most models pass it."""
    _, H, N, d = (max(1, size) for size in shape)
    return Placement((N * H * d, d, H * d, 1))


@layout
def sliced(shape: Shape) -> Placement:
    """Every second row of a buffer twice as long, from its second row on."""
    b, h, n, one = _dense(shape)
    return Placement((2 * b, 2 * h, 2 * n, one), offset=n)


@layout
def packed_qkv(shape: Shape) -> Placement:
    """The middle slice of a packed (B, N, 3, H, d) buffer, as a fused projection leaves it."""
    _, H, N, d = (max(1, size) for size in shape)
    return Placement((3 * N * H * d, d, 3 * H * d, 1), offset=H * d)


@layout
def padded_rows(shape: Shape) -> Placement:
    """Rows of d elements at a pitch of d + 3: no row but the first is aligned."""
    _, H, N, d = (max(1, size) for size in shape)
    return Placement((H * N * (d + 3), N * (d + 3), d + 3, 1))


@layout
def offset_by_one(shape: Shape) -> Placement:
    """Dense, but one element into its buffer: no 16-byte load is aligned."""
    return Placement(_dense(shape), offset=1)


@layout
def column_major(shape: Shape) -> Placement:
    """A (B, H, d, N) tensor seen through transpose(-1, -2): the last stride is not 1."""
    _, H, N, d = (max(1, size) for size in shape)
    return Placement((H * N * d, N * d, 1, N))


@layout
def expanded_batch(shape: Shape) -> Placement:
    """One batch entry expanded over B with stride 0."""
    _, h, n, one = _dense(shape)
    return Placement((0, h, n, one))


@layout
def expanded_heads(shape: Shape) -> Placement:
    """One head expanded over H with stride 0."""
    b, _, n, one = _dense((shape[0], 1, *shape[2:]))
    return Placement((b, 0, n, one))


@layout
def expanded_rows(shape: Shape) -> Placement:
    """One row expanded over N with stride 0."""
    _, H, _, d = (max(1, size) for size in shape)
    return Placement((H * d, d, 0, 1))


def expanded_all(shape: Shape) -> Placement:
    """One number expanded over every dimension with stride 0: the gradient that `O.sum().backward()` passes."""
    return Placement((0, 0, 0, 0))


GRADIENT_LAYOUTS: dict[str, Layout] = LAYOUTS | {"expanded_all": expanded_all}
"""The layouts of dO and dLSE."""
