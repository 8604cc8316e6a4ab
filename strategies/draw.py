"""The Hypothesis strategies that draw cases.

They draw the spec of a case, never its elements, so that a case shrinks in a few steps: sizes toward 1, dtype
toward fp32, layouts toward contiguous, values toward normal, features toward none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from typing import Literal, TypeVar

from hypothesis import strategies as st

from strategies.case import (
    CAUSAL_KINDS,
    DTYPES,
    MAX_SEED,
    NEEDS,
    OPERATIONS,
    PAST_END,
    VARIATIONS,
    AttentionCase,
    Causal,
    Features,
    Geometry,
    TensorSpec,
    require_known,
)
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.spec import require
from strategies.values import FAMILIES

T = TypeVar("T")

TILES = (16, 32, 64, 128)
FIRST_EDGES = (16, 17, 32, 33, 64, 65)
"""A tile filled to its end, and one key more: the two tails that most kernels get wrong."""
TAIL = (400, 511, 512, 513, 769, 1000, 1023, 1025, 1537, 2047, 2048, 2049, 3001, 4095)
COMMON_HEAD_DIMS = (16, 32, 64, 128)
OTHER_HEAD_DIMS = (1, 2, 3, 8, 40, 72, 80, 96, 112, 136, 160, 192, 256)
BATCHES = (1,) * 16 + (2,) * 8 + (3,) * 3 + (5,)
HEADS = (1,) * 60 + (2,) * 24 + (3,) * 10 + (65, 129)
GROUPS = (1,) * 60 + (2,) * 24 + (3,) * 12 + (4,) * 6 + (8,) * 3 + (65,)
MAX_HEADS = 160
"""B·Hq at most, of queries that fit one tile: enough for a kernel that folds 128 heads into one."""
MAX_SIZE = 1 << 20
"""Elements of q, or of K and V with each head repeated for its group."""
SCALES = (None, None, None, 1.0, 0.05, 0.0, -0.25, -1.0)

TOGETHER: tuple[tuple[str, str, str] | None, ...] = (
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
"""Value families of (q, k, v) that mean something together; None draws each by itself."""
GRADIENT_VALUES = (
    *("normal",) * 10,
    *("small_integers", "constant", "one_hot", "outliers") * 2,
    *("levels", "tiny", "large", "positive"),
)
"""Value families of dO and dLSE, each as often as it is named."""
ALL_OR_SOME = NEEDS[:1] * 9 + NEEDS[1:]
COST_OF_GRADIENTS = 3
"""A backward pass takes about as long as two forward passes more."""


def attention_cases(
    *,
    dtypes: Sequence[str] = DTYPES,
    causal: Causal | Sequence[Causal] = CAUSAL_KINDS,
    seqlens_k: bool = True,
    scale: bool = True,
    return_lse: bool = True,
    gqa: bool = True,
    configs: Sequence[str] = (),
    head_dims: Sequence[int] = range(1, 257),
    layouts: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    max_length: int = 4096,
    max_work: int = 1 << 17,
    history: bool = True,
    gradients: bool | Literal["only"] = False,
) -> st.SearchStrategy[AttentionCase]:
    """Draw attention problems; each argument narrows what is drawn.

    dtypes, causal, configs, head_dims, layouts, families: what may be drawn (causal also takes a single kind).
    seqlens_k, scale, return_lse, gqa, history: False leaves the feature out, True draws with and without it.
    max_length bounds Nq and Nk, max_work bounds B·Hq·Nq·Nk (a third of it where gradients are asked for).
    gradients: True asks for them in half of the cases, "only" in all. Layouts that q, k and v may not have are for
    dO and dLSE alone. Example: `@given(case=attention_cases(causal=True))`.
    """
    for what, names, known in (
        ("dtype", dtypes, DTYPES),
        ("layout", layouts or (), GRADIENT_LAYOUTS),
        ("value family", families or (), FAMILIES),
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
    kinds = (causal,) if isinstance(causal, bool | str) else tuple(causal)
    operations = OPERATIONS if gradients is True else OPERATIONS[-1:] if gradients else OPERATIONS[:1]
    work = {"forward": max_work, "forward_backward": max(1, max_work // COST_OF_GRADIENTS)}
    return _cases(
        {name: _geometries(dims, gqa, max_length, work[name]) for name in operations},
        tuple(name for name in DTYPES if name in dtypes),
        tuple(kind for kind in CAUSAL_KINDS if kind in kinds),
        (seqlens_k, scale, return_lse, history),
        tuple(configs),
        tuple(GRADIENT_LAYOUTS) if layouts is None else tuple(layouts),
        tuple(FAMILIES) if families is None else tuple(families),
    )


@st.composite
def _cases(draw, geometries, dtypes, kinds, drawn, configs, layouts, families):  # type: ignore[no-untyped-def]
    """What a draw asks for never hangs on what another gave, but for the lengths at the end: so draws shrink alone."""
    with_lengths, with_scale, with_lse, with_history = drawn
    operation = draw(_any_of(tuple(geometries), "operation")) if len(geometries) > 1 else next(iter(geometries))
    dtype = draw(_any_of(dtypes, "dtype"))
    causal = draw(_any_of(kinds, "causal"))
    scale = draw(_any_of(SCALES)) if with_scale else None
    return_lse = with_lse and draw(_any_of((False, True), "return_lse"))
    config = draw(_any_of((None,) * len(configs) + configs)) if configs else None
    q, k, v = draw(_tensor_specs(layouts, families))
    history = draw(_any_of(_histories())) if with_history else ()
    past_end = draw(_any_of(PAST_END)) if with_lengths else "values"
    geometry = draw(geometries[operation])
    has_lengths = with_lengths and draw(_any_of((False, True), "seqlens_k"))
    lengths = draw(_seqlens_k(geometry.B, geometry.Nk)) if has_lengths else None
    features = Features(causal, scale, lengths, return_lse, config)
    past_end = past_end if lengths else "values"
    case = AttentionCase(geometry, dtype, features, q, k, v, past_end=past_end, history=history)
    return case if operation == "forward" else draw(_with_gradients(case, layouts, families))


@st.composite
def _with_gradients(draw, case, layouts, families):  # type: ignore[no-untyped-def]
    """The case with what comes back through O and LSE; dLSE is drawn in any case, so that draws shrink alone."""
    values = tuple(name for name in GRADIENT_VALUES if name in families) or families
    dO, dLSE = (
        TensorSpec(draw(_any_of(values, role)), case.q.seed, draw(_any_of(layouts, role))) for role in ("dO", "dLSE")
    )
    has_dLSE = draw(_any_of((False, True), "has_dLSE")) and case.features.return_lse
    needs_grad = draw(_any_of(ALL_OR_SOME, "needs_grad"))
    return case.replace(operation="forward_backward", dO=dO, dLSE=dLSE if has_dLSE else None, needs_grad=needs_grad)


@st.composite
def _geometries(draw, dims, gqa, max_length, max_work):  # type: ignore[no-untyped-def]
    Nk = draw(_any_of(_lengths(max_length), "Nk"))
    Nq = draw(_any_of(_lengths(max_length), "Nq"))
    is_square = draw(_one_in(4))
    d = draw(_any_of(_head_dims(dims)))
    B = draw(_any_of(BATCHES))
    Hk = draw(_any_of(HEADS))
    group = draw(_any_of(GROUPS)) if gqa else 1
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
def _seqlens_k(draw, B, Nk):  # type: ignore[no-untyped-def]
    ends = (Nk, max(0, Nk - 1), min(1, Nk), 0)
    sixteenths = [draw(_any_of(tuple(range(len(ends) + 16)), b)) for b in range(B)]
    return tuple(ends[n] if n < len(ends) else Nk * (n - len(ends)) // 16 for n in sixteenths)


@st.composite
def _tensor_specs(draw, layouts, families):  # type: ignore[no-untyped-def]
    seed = draw(_seeds())
    layouts = tuple(name for name in layouts if name in LAYOUTS)
    together = draw(_any_of(tuple(t for t in TOGETHER if t is None or set(t) <= set(families))))
    alone = [draw(_any_of(families, role)) for role in "qkv"]
    how = draw(_any_of(("first", "own", "shared")))
    own = [draw(_any_of(layouts, role)) for role in "qkv"]
    chosen = {"first": [layouts[0]] * 3, "shared": own[:1] * 3, "own": own}[how]
    return tuple(TensorSpec(name, seed, layout) for name, layout in zip(together or alone, chosen, strict=True))


@cache
def _any_of(elements: tuple[T, ...], site: object = "") -> st.SearchStrategy[T]:
    """`sampled_from`, made once for each collection: making a strategy costs more than drawing from it.

    Hypothesis makes most cases from earlier ones, by copying one draw over another of the same elements (Nq over Nk,
    q's layout over k's), which leaves two cases in five as they were. So a site keeps such draws apart.
    """
    return st.sampled_from(tuple((site, element) for element in elements)).map(itemgetter(1))


@cache
def _seeds() -> st.SearchStrategy[int]:
    return st.integers(0, MAX_SEED)


@cache
def _histories() -> tuple[tuple[str, ...], ...]:
    """No call before, seven times in eight; else one call, or one more before it."""
    one = [(name,) for name in sorted(VARIATIONS)]
    two = [(first, *second) for first in ("other_causal", "other_values") for second in one]
    some = [*one, *one, *two]
    return ((),) * (7 * len(some)) + tuple(some)


@cache
def _one_in(n: int) -> st.SearchStrategy[bool]:
    """True once in n draws; shrinks to False."""
    return st.sampled_from((False,) * (n - 1) + (True,))


@cache
def _lengths(longest: int) -> tuple[int, ...]:
    """Lengths, each as often as its weight and from small to large, so that a smaller index is a shorter length."""
    order = (1, 0, *range(2, min(longest, 2 * max(TILES) + 18) + 1), *(n for n in TAIL if n <= longest))
    return tuple(n for n in order for _ in range(_weight(n)))


def _weight(n: int) -> int:
    """Small lengths most often, then those around the edges of tiles."""
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
