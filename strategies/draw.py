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
from strategies.drawing import Draw, any_of
from strategies.features import FEATURES, VARIATIONS, Value
from strategies.features.scale import POSITIVE
from strategies.features.seqlens_k import PAST_END
from strategies.geometry import Geometry
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.limits import NO_LIMITS, Limits
from strategies.shapes import LONGEST, SHAPES, SHARED_KEYS, Bounds, draw_geometry
from strategies.spec import require, require_known
from strategies.tensor_spec import MAX_SEED, TensorSpec
from strategies.values import FAMILIES

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
    ("sunken", "sunken", "normal"),
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
    max_length: int = LONGEST,
    max_work: int = 1 << 17,
    history: bool = True,
    gradients: bool | Literal["only"] = False,
    limits: Limits = NO_LIMITS,
    **features: Any,
) -> st.SearchStrategy[AttentionCase]:
    """Draw attention problems; each argument narrows what is drawn.

    dtypes, configs, head_dims, layouts, families: the allowed values. gqa, history: False leaves it out.
    features: by name, True draws with and without the feature, False leaves it out; causal takes a kind, or several.
    causal, scale, seqlens_k and return_lse are drawn by default, other features only if they are named.
    max_length bounds Nq and Nk, max_work bounds B·Hq·Nq·Nk (a third of it in cases with gradients).
    gradients: True draws them in half of the cases, "only" in all. Layouts that q, k and v cannot have are used for
    dO and dLSE only. limits: confines cases further. Example: `@given(case=attention_cases(causal=True))`.
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
    layouts = limits.layouts(GRADIENT_LAYOUTS if layouts is None else layouts)
    require(any(name in LAYOUTS for name in layouts), "layouts must name one for q, k and v at least.")
    operations = OPERATIONS if gradients is True else OPERATIONS[-1:] if gradients else OPERATIONS[:1]
    work = {"forward": max_work, "forward_backward": max(1, max_work // COST_OF_GRADIENTS)}
    return _cases(
        {name: Bounds(dims, gqa, max_length, work[name], limits) for name in operations},
        tuple(name for name in DTYPES if name in dtypes),
        _allowed({"config": configs} | features, limits),
        history,
        layouts,
        tuple(FAMILIES) if families is None else tuple(families),
        limits,
    )


def _allowed(features: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return the allowed values of each feature to draw, by name; common ones are drawn unless they are excluded."""
    named = {name: each.anything for name, each in FEATURES.items() if each.is_common} | dict(features)
    narrowed = {name: FEATURES[name].narrow(named[name]) for name in FEATURES if name in named}
    if limits.positive_scale and narrowed.get("scale"):
        narrowed["scale"] = POSITIVE
    return {name: asked for name, asked in narrowed.items() if asked}


@st.composite
def _cases(draw, bounds, dtypes, asked, history, layouts, families, limits):  # type: ignore[no-untyped-def]
    """Draw each part independently, so that it shrinks on its own; the sizes, and what needs them, come last."""
    operation = draw(any_of(tuple(bounds), "operation")) if len(bounds) > 1 else next(iter(bounds))
    dtype = draw(any_of(dtypes, "dtype"))
    values = _draw_common(draw, asked, None)
    shape = draw(any_of(SHAPES, "shape"))
    q, k, v = draw(_tensor_specs(layouts, families, shape is SHARED_KEYS, limits.same_layout))
    calls_before = draw(any_of(_histories(_variations(asked)))) if history else ()
    past_end = draw(any_of(PAST_END)) if "seqlens_k" in asked else "values"
    geometry = draw_geometry(draw, bounds[operation], shape)
    values |= _draw_common(draw, asked, geometry) | _draw_extra(draw, asked, geometry)
    features = Features(**values)
    past_end = past_end if features.seqlens_k else "values"
    case = AttentionCase(geometry, dtype, features, q, k, v, past_end=past_end, history=calls_before)
    if operation == "forward_backward":
        case = draw(_with_gradients(case, limits.dO_layouts or layouts, families, limits.dLSE))
    return _with_legal_history(case, limits) if case.history and limits != NO_LIMITS else case


def _with_legal_history(case: AttentionCase, limits: Limits) -> AttentionCase:
    """Leave out earlier calls that break a limit."""
    bare = case.replace(history=())
    return case.replace(history=tuple(n for n in case.history if limits.broken_by(VARIATIONS[n](bare)) is None))


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
def _with_gradients(draw, case, layouts, families, takes_dLSE):  # type: ignore[no-untyped-def]
    """Add dO, dLSE and needs_grad; the spec of dLSE is always drawn, so that draws shrink independently."""
    values = tuple(name for name in GRADIENT_VALUES if name in families) or families
    dO, dLSE = (
        TensorSpec(draw(any_of(values, role)), case.q.seed, draw(any_of(layouts, role))) for role in ("dO", "dLSE")
    )
    has_dLSE = draw(any_of((False, True), "has_dLSE")) and case.features.return_lse and takes_dLSE
    needs_grad = draw(any_of(WEIGHTED_NEEDS, "needs_grad"))
    return case.replace(operation="forward_backward", dO=dO, dLSE=dLSE if has_dLSE else None, needs_grad=needs_grad)


@st.composite
def _tensor_specs(draw, layouts, families, shares_keys, same_layout):  # type: ignore[no-untyped-def]
    """Draw the specs of q, k and v; shares_keys: the layout of k is often one with stride 0."""
    seed = draw(_seeds())
    layouts = tuple(name for name in layouts if name in LAYOUTS)
    together = draw(any_of(tuple(t for t in FAMILY_COMBINATIONS if t is None or set(t) <= set(families))))
    alone = [draw(any_of(families, role)) for role in "qkv"]
    how = draw(any_of(("first", "shared") if same_layout else ("first", "own", "shared")))
    own = [draw(any_of(_often_expanded(layouts) if shares_keys and role == "k" else layouts, role)) for role in "qkv"]
    chosen = {"first": [layouts[0]] * 3, "shared": own[:1] * 3, "own": own}[how]
    return tuple(TensorSpec(name, seed, layout) for name, layout in zip(together or alone, chosen, strict=True))


@cache
def _often_expanded(layouts: tuple[str, ...]) -> tuple[str, ...]:
    """Return layouts repeated by weight: those with stride 0 along B or H weigh most."""
    return tuple(n for n in layouts for _ in range(12 if n in ("expanded_batch", "expanded_heads") else 1))


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
