"""Calls that come before a case in the same process: one decorated function a variation of the case.

A kernel that keeps a cache, a buffer or a tuned configuration under too short a key answers the second of two
calls that differ in one thing with what it kept of the first.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies.case import DTYPES, VARIATIONS, AttentionCase, TensorSpec

Variation = Callable[[AttentionCase], AttentionCase]


def variation(function: Variation) -> Variation:
    """Register a variation under the function's name."""
    VARIATIONS[function.__name__] = function
    return function


def calls_before(case: AttentionCase) -> tuple[AttentionCase, ...]:
    """The cases of the calls in `case.history`, oldest first, each without a history of its own."""
    bare = case.replace(history=())
    return tuple(VARIATIONS[name](bare) for name in case.history)


def _reseeded(spec: TensorSpec) -> TensorSpec:
    return spec.replace(seed=spec.seed ^ 1)


@variation
def other_values(case: AttentionCase) -> AttentionCase:
    """The same problem with other numbers."""
    other = case.replace(q=_reseeded(case.q), k=_reseeded(case.k), v=_reseeded(case.v))
    if not case.has_gradients:
        return other
    return other.replace(dO=_reseeded(case.dO), dLSE=None if case.dLSE is None else _reseeded(case.dLSE))


@variation
def other_causal(case: AttentionCase) -> AttentionCase:
    """Causal switched off, or on where it was off."""
    return case.replace(features=case.features.replace(causal=not case.features.causal))


@variation
def other_scale(case: AttentionCase) -> AttentionCase:
    """Twice the scale, or 1 where it is the default or 0."""
    scale = 2 * case.features.scale if case.features.scale else 1.0
    return case.replace(features=case.features.replace(scale=scale))


@variation
def other_dtype(case: AttentionCase) -> AttentionCase:
    """The next dtype."""
    following = (DTYPES.index(case.dtype) + 1) % len(DTYPES)
    return case.replace(dtype=DTYPES[following])


@variation
def other_lengths(case: AttentionCase) -> AttentionCase:
    """One visible key less in each batch entry, where the call has lengths at all."""
    if case.features.seqlens_k is None:
        return case
    fewer = tuple(max(0, length - 1) for length in case.features.seqlens_k)
    return case.replace(features=case.features.replace(seqlens_k=fewer))


@variation
def other_layout(case: AttentionCase) -> AttentionCase:
    """All tensors contiguous, or all transposed views where they were."""
    is_dense = {case.q.layout, case.k.layout, case.v.layout} == {"contiguous"}
    name = "bshd" if is_dense else "contiguous"
    return case.replace(**{t: getattr(case, t).replace(layout=name) for t in "qkv"})


@variation
def more_keys(case: AttentionCase) -> AttentionCase:
    """Seventeen keys more, so that a buffer sized by the first call is too large for the second."""
    return case.replace(geometry=case.geometry.replace(Nk=case.geometry.Nk + 17))


@variation
def other_head_dim(case: AttentionCase) -> AttentionCase:
    """Twice the head dim, or half of one past 64: what was compiled or cached for one does not fit the other."""
    d = case.geometry.d
    return case.replace(geometry=case.geometry.replace(d=2 * d if d <= 64 else d // 2))


@variation
def one_more_in_the_batch(case: AttentionCase) -> AttentionCase:
    """One batch entry more, as long as the last one."""
    lengths = case.features.seqlens_k
    more = None if lengths is None else (*lengths, lengths[-1])
    geometry = case.geometry.replace(B=case.geometry.B + 1)
    return case.replace(geometry=geometry, features=case.features.replace(seqlens_k=more))


@variation
def fewer_keys(case: AttentionCase) -> AttentionCase:
    """Half the keys, so that a buffer sized by the first call is too small for the second."""
    Nk = case.geometry.Nk // 2
    lengths = case.features.seqlens_k
    cut = None if lengths is None else tuple(min(length, Nk) for length in lengths)
    return case.replace(geometry=case.geometry.replace(Nk=Nk), features=case.features.replace(seqlens_k=cut))
