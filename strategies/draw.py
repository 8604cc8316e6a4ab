"""The Hypothesis strategies that draw cases.

They draw a case's spec, never its elements, so that a case shrinks in few steps: sizes toward 1, dtype toward fp32,
layouts toward contiguous, values toward normal, features toward none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any, Literal

from hypothesis import strategies as st

from strategies.case import (
    DTYPES,
    NEEDS,
    OPERATIONS,
    AttentionCase,
    Features,
)
from strategies.drawing import Draw, any_of, one_in
from strategies.features import FEATURES, VARIATIONS, Value
from strategies.features.seqlens_k import PAST_END
from strategies.geometry import Geometry
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.spec import require, require_known
from strategies.tensor_spec import MAX_SEED, TensorSpec
from strategies.values import FAMILIES

TILES = (16, 32, 64, 128)
FIRST_EDGES = (16, 17, 32, 33, 64, 65)
"""A full tile, and one key more: the two tails that most kernels get wrong."""
TAIL = (400, 511, 512, 513, 769, 1000, 1023, 1025, 1537, 2047, 2048, 2049, 3001, 4095)
COMMON_HEAD_DIMS = (16, 32, 64, 128)
OTHER_HEAD_DIMS = (1, 2, 3, 8, 40, 72, 80, 96, 112, 136, 160, 192, 256)
BATCHES = (1,) * 16 + (2,) * 8 + (3,) * 3 + (5,)
HEADS = (1,) * 60 + (2,) * 24 + (3,) * 10 + (65, 129)
GROUPS = (1,) * 60 + (2,) * 24 + (3,) * 12 + (4,) * 6 + (8,) * 3 + (65,)
MAX_HEADS = 160
"""Maximum of B·Hq if the queries fit one tile: enough for a kernel that folds 128 heads into one."""
MAX_SIZE = 1 << 20
"""Maximum number of elements of q, or of K and V with each head repeated for its group."""
EXTRA_WEIGHTS = (6, 6, 3, 1)
"""Weights of drawing zero, one, two and three features that are not common."""

FAMILY_COMBINATIONS: tuple[tuple[str, str, str] | None, ...] = (
    ("normal", "normal", "normal"),
    ("normal", "normal", "normal"),
    ("normal", "normal", "one_hot"),
    ("normal", "normal", "constant"),
    ("small_integers", "small_integers", "small_integers"),
    ("constant", "constant", "normal"),
    ("positive", "negative", "normal"),
    ("positive", "rising", "normal"),
    ("positive", "falling", "normal"),
    ("normal", "common_mean", "positive"),
    ("levels", "levels", "levels"),
    ("large", "large", "normal"),
    ("constant", "constant", "large"),
    None,
    None,
    None,
)
"""Value families of (q, k, v) that make a meaningful combination; None draws each separately."""
GRADIENT_VALUES = (
    *("normal",) * 10,
    *("small_integers", "constant", "one_hot", "outliers") * 2,
    *("levels", "tiny", "large", "positive"),
)
"""Value families of dO and dLSE, repeated by weight."""
WEIGHTED_NEEDS = NEEDS[:1] * 9 + NEEDS[1:]
COST_OF_GRADIENTS = 3
"""Cost of a forward and a backward pass, in forward passes."""


def attention_cases(
    *,
    dtypes: Sequence[str] = DTYPES,
    gqa: bool = True,
    configs: Sequence[str] = (),
    head_dims: Sequence[int] = range(1, 257),
    layouts: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    max_length: int = 4096,
    max_work: int = 1 << 17,
    history: bool = True,
    gradients: bool | Literal["only"] = False,
    **features: Any,
) -> st.SearchStrategy[AttentionCase]:
    """Draw attention problems; each argument narrows what is drawn.

    dtypes, configs, head_dims, layouts, families: the allowed values. gqa, history: False leaves it out.
    features: by name, True draws with and without the feature, False leaves it out; causal takes a kind, or several.
    causal, scale, seqlens_k and return_lse are drawn by default, other features only if they are named.
    max_length bounds Nq and Nk, max_work bounds B·Hq·Nq·Nk (a third of it in cases with gradients).
    gradients: True draws them in half of the cases, "only" in all. Layouts that q, k and v cannot have are used for
    dO and dLSE only. Example: `@given(case=attention_cases(causal=True))`.
    """
    for what, names, known in (
        ("dtype", dtypes, DTYPES),
        ("layout", layouts or (), GRADIENT_LAYOUTS),
        ("value family", families or (), FAMILIES),
        ("feature", features, FEATURES),
    ):
        for name in names:
            require_known(what, name, known)
    dims = tuple(sorted(set(head_dims)))
    require(bool(dtypes), "dtypes must name one dtype at least.")
    require(bool(dims) and dims[0] >= 1, "head_dims must hold one positive number at least.")
    require(max_length >= 1 and max_work >= 1, "max_length and max_work must be 1 or more.")
    require(gradients in (False, True, "only"), f"gradients must be False, True or 'only', not {gradients!r}.")
    for_inputs = layouts is None or any(name in LAYOUTS for name in layouts)
    require(for_inputs, "layouts must name one for q, k and v at least.")
    operations = OPERATIONS if gradients is True else OPERATIONS[-1:] if gradients else OPERATIONS[:1]
    work = {"forward": max_work, "forward_backward": max(1, max_work // COST_OF_GRADIENTS)}
    return _cases(
        {name: _geometries(dims, gqa, max_length, work[name]) for name in operations},
        tuple(name for name in DTYPES if name in dtypes),
        _allowed({"config": configs} | features),
        history,
        tuple(GRADIENT_LAYOUTS) if layouts is None else tuple(layouts),
        tuple(FAMILIES) if families is None else tuple(families),
    )


def _allowed(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the allowed values of each feature to draw, by name; common ones are drawn unless they are excluded."""
    named = {name: each.anything for name, each in FEATURES.items() if each.is_common} | dict(features)
    narrowed = {name: FEATURES[name].narrow(named[name]) for name in FEATURES if name in named}
    return {name: asked for name, asked in narrowed.items() if asked}


@st.composite
def _cases(draw, geometries, dtypes, asked, history, layouts, families):  # type: ignore[no-untyped-def]
    """Draw each part independently, so that it shrinks on its own; the sizes, and what needs them, come last."""
    operation = draw(any_of(tuple(geometries), "operation")) if len(geometries) > 1 else next(iter(geometries))
    dtype = draw(any_of(dtypes, "dtype"))
    values = _draw_common(draw, asked, None)
    q, k, v = draw(_tensor_specs(layouts, families))
    calls_before = draw(any_of(_histories(_variations(asked)))) if history else ()
    past_end = draw(any_of(PAST_END)) if "seqlens_k" in asked else "values"
    geometry = draw(geometries[operation])
    values |= _draw_common(draw, asked, geometry) | _draw_extra(draw, asked, geometry)
    features = Features(**values)
    past_end = past_end if features.seqlens_k else "values"
    case = AttentionCase(geometry, dtype, features, q, k, v, past_end=past_end, history=calls_before)
    return case if operation == "forward" else draw(_with_gradients(case, layouts, families))


def _draw_common(draw: Draw, asked: Mapping[str, Any], geometry: Geometry | None) -> dict[str, Value]:
    """Draw the common features: those that need the sizes if a geometry is given, else the others."""
    named = [FEATURES[name] for name in asked if FEATURES[name].is_common]
    found = (each for each in named if each.needs_geometry == (geometry is not None))
    return {each.name: each.draw(draw, asked[each.name], geometry) for each in found}


def _draw_extra(draw: Draw, asked: Mapping[str, Any], geometry: Geometry) -> dict[str, Value]:
    """Draw up to three of the other features; every pair is reached."""
    names = tuple(name for name in asked if not FEATURES[name].is_common)
    chosen = draw(any_of(_subsets(names), "extra features")) if names else ()
    return {name: FEATURES[name].draw(draw, asked[name], geometry) for name in chosen}


@cache
def _subsets(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the subsets of up to three names, smaller first, with sizes weighted by EXTRA_WEIGHTS."""
    by_size = [tuple(combinations(names, size)) for size in range(min(len(names), len(EXTRA_WEIGHTS) - 1) + 1)]
    common = math.lcm(*map(len, by_size))
    return tuple(
        subset
        for subsets, weight in zip(by_size, EXTRA_WEIGHTS, strict=False)
        for subset in subsets
        for _ in range(weight * common // len(subsets))
    )


@st.composite
def _with_gradients(draw, case, layouts, families):  # type: ignore[no-untyped-def]
    """Add dO, dLSE and needs_grad; the spec of dLSE is always drawn, so that draws shrink independently."""
    values = tuple(name for name in GRADIENT_VALUES if name in families) or families
    dO, dLSE = (
        TensorSpec(draw(any_of(values, role)), case.q.seed, draw(any_of(layouts, role))) for role in ("dO", "dLSE")
    )
    has_dLSE = draw(any_of((False, True), "has_dLSE")) and case.features.return_lse
    needs_grad = draw(any_of(WEIGHTED_NEEDS, "needs_grad"))
    return case.replace(operation="forward_backward", dO=dO, dLSE=dLSE if has_dLSE else None, needs_grad=needs_grad)


@st.composite
def _geometries(draw, dims, gqa, max_length, max_work):  # type: ignore[no-untyped-def]
    Nk = draw(any_of(_lengths(max_length), "Nk"))
    Nq = draw(any_of(_lengths(max_length), "Nq"))
    is_square = draw(one_in(4))
    d = draw(any_of(_head_dims(dims)))
    B = draw(any_of(BATCHES))
    Hk = draw(any_of(HEADS))
    group = draw(any_of(GROUPS)) if gqa else 1
    Nq = Nk if is_square else Nq
    Nk = min(Nk, max_work)
    Nq = min(Nq, max(1, max_work // max(1, Nk)))
    longest = max(1, Nq, Nk)
    room = max(1, min(max_work // (max(1, Nq) * max(1, Nk)), MAX_SIZE // (longest * d), MAX_HEADS * 16 // longest))
    room = min(room, MAX_HEADS)
    B = min(B, room)
    Hk = min(Hk, room // B)
    group = min(group, room // (B * Hk))
    return Geometry(B, Hk * group, Hk, Nq, Nk, d)


@st.composite
def _tensor_specs(draw, layouts, families):  # type: ignore[no-untyped-def]
    seed = draw(_seeds())
    layouts = tuple(name for name in layouts if name in LAYOUTS)
    together = draw(any_of(tuple(t for t in FAMILY_COMBINATIONS if t is None or set(t) <= set(families))))
    alone = [draw(any_of(families, role)) for role in "qkv"]
    how = draw(any_of(("first", "own", "shared")))
    own = [draw(any_of(layouts, role)) for role in "qkv"]
    chosen = {"first": [layouts[0]] * 3, "shared": own[:1] * 3, "own": own}[how]
    return tuple(TensorSpec(name, seed, layout) for name, layout in zip(together or alone, chosen, strict=True))


@cache
def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, MAX_SEED)


def _variations(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of possible earlier calls, without those of features that are not drawn."""
    absent = (each for name, each in FEATURES.items() if not each.is_common and name not in asked)
    return tuple(sorted(VARIATIONS.keys() - {name for each in absent for name in each.variations}))


@cache
def _histories(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the histories to draw from: empty seven times in eight, else one or two calls."""
    one = [(name,) for name in names]
    two = [(first, *second) for first in ("other_causal", "other_values") for second in one]
    some = [*one, *one, *two]
    return ((),) * (7 * len(some)) + tuple(some)


@cache
def _lengths(longest: int) -> tuple[int, ...]:
    """Return lengths repeated by weight, from small to large, so that a smaller index is a shorter length."""
    order = (1, 0, *range(2, min(longest, 2 * max(TILES) + 18) + 1), *(n for n in TAIL if n <= longest))
    return tuple(n for n in order for _ in range(_weight(n)))


def _weight(n: int) -> int:
    """Return the weight of a length: small ones weigh most, then those around the edges of tiles."""
    if n <= 4:
        return 40
    if n in FIRST_EDGES:
        return 24
    is_edge = any(n % tile in (0, 1, tile - 1) and n // tile <= 2 for tile in TILES)
    if n <= 2 * TILES[2] + 1:
        return 12 if is_edge else 8 if n <= 17 else 2
    return 4 if is_edge else 1


@cache
def _head_dims(dims: tuple[int, ...]) -> tuple[int, ...]:
    weights = {d: 48 if d in COMMON_HEAD_DIMS else 12 if d in OTHER_HEAD_DIMS else 2 if d <= 64 else 1 for d in dims}
    return tuple(d for d in dims for _ in range(weights[d]))
