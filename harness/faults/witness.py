"""A short way to write down the case that shows a fault."""

from __future__ import annotations

from typing import Any

from strategies import AttentionCase, Features, Geometry, TensorSpec

One = str | tuple[str, str, str]


def case(
    Nq: int = 4,
    Nk: int = 4,
    d: int = 16,
    *,
    B: int = 1,
    Hq: int = 1,
    Hk: int = 1,
    dtype: str = "fp32",
    values: One = "normal",
    layout: One = "contiguous",
    past_end: str = "values",
    history: tuple[str, ...] = (),
    seed: int = 0,
    **features: Any,
) -> AttentionCase:
    """A case from its sizes and features; values and layout name one for q, k and v together, or one for each."""
    q, k, v = (TensorSpec(_of(values, i), seed, _of(layout, i)) for i in range(3))
    geometry = Geometry(B, Hq, Hk, Nq, Nk, d)
    return AttentionCase(geometry, dtype, Features(**features), q, k, v, past_end=past_end, history=history)


def _of(names: One, position: int) -> str:
    return names if isinstance(names, str) else names[position]
