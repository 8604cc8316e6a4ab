"""Draws the sizes of a problem: most are small, and a few kinds of shape that kernels treat apart are drawn by weight.

Each table of a shape holds the small sizes too, from small to large, so that a case shrinks to the same sizes whatever
the shape it was drawn as.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from strategies.drawing import Draw, any_of, one_in
from strategies.geometry import Geometry
from strategies.limits import Limits

LONGEST = 1 << 14
TILES = (16, 32, 64, 128)
FIRST_EDGES = (16, 17, 32, 33, 64, 65)
"""A full tile, and one key more: the two tails that most kernels get wrong."""
ODD_TILES = (300, 320, 321, 384, 385, 448, 449, 600, 640, 641, 896, 897)
"""Past 274: three, five or seven tiles of 64 or 128, full or not."""
TAIL = (400, 511, 512, 513, 769, 1000, 1023, 1024, 1025, 1537, 2047, 2048, 2049, 3001, 4095, 4096, 4097, 8193, 16384)
COMMON_HEAD_DIMS = (16, 32, 64, 128)
OTHER_HEAD_DIMS = (1, 2, 3, 8, 40, 72, 80, 96, 112, 136, 160, 192, 256, 288, 320, 512, 576)
MAX_HEADS = 160
"""Maximum of B·Hq if the queries fit one tile: enough for a kernel that folds 128 heads into one."""

Weights = Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Shape:
    """The weights that sizes are drawn by; without weights, lengths and head dims are drawn by those of small problems.

    keeps_largest: where there is no room for all, the largest of B, Hk and the group is kept, else B is.
    steps: maximum of B·Hq times the longer of Nq and Nk, which bounds the tiles that a kernel takes one by one.
    size: maximum number of elements of q, or of K and V with each head repeated for its group, if B·Hq > 1.
    size_of_head: the same if B·Hq is 1.
    """

    B: Weights
    Hk: Weights
    group: Weights
    Nq: Weights = field(default_factory=dict)
    Nk: Weights = field(default_factory=dict)
    d: Weights = field(default_factory=dict)
    keeps_largest: bool = False
    steps: int = MAX_HEADS * TILES[0]
    size: int = 3 << 15
    size_of_head: int = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What sizes are drawn from: head dims, whether heads may be shared, the maxima of lengths and of work, limits."""

    dims: tuple[int, ...]
    gqa: bool
    max_length: int
    max_work: int
    limits: Limits


USUAL = Shape(
    B={1: 32, 2: 16, 3: 5, 4: 2, 5: 1, 6: 1},
    Hk={1: 60, 2: 24, 3: 10, 65: 1, 129: 1},
    group={1: 60, 2: 24, 3: 12, 4: 6, 8: 3, 65: 1},
)
DECODE = Shape(
    B={1: 24, 2: 6, 3: 2, 4: 3, 5: 1, 7: 1, 8: 2, 16: 2, 32: 1, 64: 2},
    Hk={1: 24, 2: 8, 3: 2, 4: 4, 8: 4},
    group={1: 6, 2: 1, 3: 1, 4: 6, 5: 4, 7: 4, 8: 6, 12: 3, 16: 4, 32: 3},
    Nq={1: 4000, 2: 500, 3: 250, 4: 250, 5: 150, 7: 150, 8: 250, 16: 250},
    Nk=dict.fromkeys((256, 257, 300, 320, 384, 385, 400, 448, 449, 511, 512, 513), 300)
    | dict.fromkeys((600, 769, 1000, 1023, 1024, 1025, 1537), 300)
    | dict.fromkeys((2047, 2048, 2049, 3001), 300)
    | dict.fromkeys((4095, 4096, 4097, 8193, 16384), 160),
    keeps_largest=True,
    steps=1 << 14,
    size_of_head=1 << 19,
)
"""A few queries against many keys, with the groups and batches of real models."""
SHARED_KEYS = Shape(
    B={1: 4, 2: 4, 3: 2},
    Hk={1: 2, 2: 4, 3: 3, 4: 1},
    group={1: 6, 2: 2, 3: 1},
    Nk=dict.fromkeys((17, 33, 65), 300) | dict.fromkeys((49, 129, 193, 257), 100),
)
"""Several heads over keys of stride 0, most often with one key past a full tile."""
LARGE_HEADS = Shape(
    B={1: 4, 2: 2},
    Hk={1: 1, 2: 4, 3: 4, 4: 4},
    group={1: 12, 2: 1},
    Nq=dict.fromkeys((257, 300, 320, 321), 1500) | dict.fromkeys((384, 385, 449, 513), 600),
    d={128: 1000, 192: 1000, 256: 2000},
    keeps_largest=True,
    size=1 << 18,
)
"""Several heads of many long rows, which go far into memory."""
SHAPES = (USUAL,) * 168 + (DECODE,) * 21 + (SHARED_KEYS,) * 9 + (LARGE_HEADS,) * 2


def draw_geometry(draw: Draw, bounds: Bounds, shape: Shape) -> Geometry:
    """Draw sizes within the bounds; what there is no room for is cut."""
    Nk: int = draw(any_of(_lengths(shape, "Nk", bounds.max_length), "Nk"))
    Nq: int = draw(any_of(_lengths(shape, "Nq", bounds.max_length), "Nq"))
    is_square: bool = draw(one_in(4)) and shape is USUAL
    d: int = draw(any_of(_head_dims(shape, bounds.dims)))
    B: int = draw(any_of(_repeated(shape, "B"), "B"))
    Hk: int = draw(any_of(_repeated(shape, "Hk"), "Hk"))
    group: int = draw(any_of(_repeated(shape, "group"), "group")) if bounds.gqa else 1
    Nq = Nk if is_square else Nq
    longest = max(1, shape.size_of_head // d)
    if bounds.limits.self_attention:
        longest = min(longest, max(1, math.isqrt(bounds.max_work)))
    Nk = min(Nk, bounds.max_work, longest)
    max_Nq = min(longest, max(1, bounds.max_work // max(1, Nk)), bounds.max_length)
    Nq, Nk = bounds.limits.lengths(Nq, Nk, max_Nq, min(longest, bounds.max_work, bounds.max_length))
    counts = {"B": B, "Hk": Hk, "group": group}
    room = _room(bounds, shape, Nq, Nk, d)
    for name in sorted(counts, key=counts.__getitem__, reverse=True) if shape.keeps_largest else counts:
        counts[name] = min(counts[name], room)
        room //= counts[name]
    return Geometry(counts["B"], counts["Hk"] * counts["group"], counts["Hk"], Nq, Nk, d)


def _room(bounds: Bounds, shape: Shape, Nq: int, Nk: int, d: int) -> int:
    """Return the maximum of B·Hq."""
    longest = max(1, Nq, Nk)
    most = (bounds.max_work // (max(1, Nq) * max(1, Nk)), shape.size // (longest * d), shape.steps // longest)
    return max(1, min(*most, MAX_HEADS))


@cache
def _lengths(shape: Shape, name: str, longest: int) -> tuple[int, ...]:
    """Return lengths repeated by weight, from small to large, so that a smaller index is a shorter length."""
    own: Weights = getattr(shape, name)
    short = range(2, 2 * max(TILES) + 19)
    order = (1, 0, *short, *sorted({*ODD_TILES, *TAIL, *own} - {0, 1, *short}))
    return tuple(n for n in order if n <= longest for _ in range(own.get(n, 1) if own else _weight(n)))


def _weight(n: int) -> int:
    """Return the weight of a length: small ones weigh most, then those around the edges of tiles."""
    if n <= 4:
        return 40
    if n in FIRST_EDGES:
        return 24
    is_edge = any(n % tile in (0, 1, tile - 1) and n // tile <= 2 for tile in TILES)
    if n <= 2 * TILES[2] + 1:
        return 12 if is_edge else 8 if n <= 17 else 2
    return 4 if is_edge or n in ODD_TILES else 1


@cache
def _head_dims(shape: Shape, dims: tuple[int, ...]) -> tuple[int, ...]:
    def weight(d: int) -> int:
        return 48 if d in COMMON_HEAD_DIMS else 12 if d in OTHER_HEAD_DIMS else 2 if d <= 64 else 1

    return tuple(d for d in dims for _ in range(shape.d.get(d, 0) or weight(d)))


@cache
def _repeated(shape: Shape, name: str) -> tuple[int, ...]:
    weights: Weights = getattr(shape, name)
    return tuple(n for n in sorted(weights) for _ in range(weights[n]))
