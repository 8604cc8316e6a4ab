"""Calls before a case in the same process: one decorated function per variation of the case.

Variations of a feature's value are declared by the feature (`Feature.variations`).

A kernel may key a cache, a buffer or a tuned configuration too coarsely. If two calls differ in one thing only, it then
answers the second from what it cached for the first.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies.case import INPUTS, AttentionCase
from strategies.features import VARIATIONS
from strategies.tensor_spec import TensorSpec

Variation = Callable[[AttentionCase], AttentionCase]

NEXT_DTYPE = {"fp32": "fp16", "fp16": "bf16", "bf16": "fp32"}
"""Written out, so that a new dtype does not change the meaning of saved cases."""


def variation(function: Variation) -> Variation:
    """Register a variation under the function's name."""
    VARIATIONS[function.__name__] = function
    return function


def calls_before(case: AttentionCase) -> tuple[AttentionCase, ...]:
    """Return the cases of the calls in `case.history`, oldest first, each without a history of its own."""
    bare = case.replace(history=())
    return tuple(VARIATIONS[name](bare) for name in case.history)


def _reseed(spec: TensorSpec) -> TensorSpec:
    return spec.replace(seed=spec.seed ^ 1)


@variation
def other_values(case: AttentionCase) -> AttentionCase:
    """The same problem with other numbers."""
    other = case.replace(q=_reseed(case.q), k=_reseed(case.k), v=_reseed(case.v))
    if not case.has_gradients:
        return other
    return other.replace(dO=_reseed(case.dO), dLSE=None if case.dLSE is None else _reseed(case.dLSE))


@variation
def other_dtype(case: AttentionCase) -> AttentionCase:
    """The next dtype."""
    return case.replace(dtype=NEXT_DTYPE[case.dtype])


@variation
def other_layout(case: AttentionCase) -> AttentionCase:
    """All tensors contiguous, or all transposed views if q, k and v are contiguous."""
    is_dense = {case.q.layout, case.k.layout, case.v.layout} == {"contiguous"}
    name = "bshd" if is_dense else "contiguous"
    roles = (*INPUTS, "dO") if case.has_gradients else INPUTS
    return case.replace(**{role: getattr(case, role).replace(layout=name) for role in roles})


@variation
def more_keys(case: AttentionCase) -> AttentionCase:
    """Seventeen more keys, so that a buffer sized by the first call is too large for the second."""
    return case.resized(Nk=case.geometry.Nk + 17)


@variation
def other_head_dim(case: AttentionCase) -> AttentionCase:
    """Twice the head dim, or half of one above 64: what was compiled or cached for one does not fit the other."""
    d = case.geometry.d
    return case.resized(d=2 * d if d <= 64 else d // 2)


@variation
def one_more_in_the_batch(case: AttentionCase) -> AttentionCase:
    """One more batch entry, as long as the last one."""
    return case.resized(B=case.geometry.B + 1)


@variation
def fewer_keys(case: AttentionCase) -> AttentionCase:
    """Half the keys, so that a buffer sized by the first call is too small for the second."""
    return case.resized(Nk=case.geometry.Nk // 2)
