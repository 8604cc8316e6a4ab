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


def gradients(
    Nq: int = 4,
    Nk: int = 4,
    d: int = 16,
    *,
    dO: str = "contiguous",
    dO_values: str = "normal",
    dLSE: str | None = None,
    needs: tuple[str, ...] = ("q", "k", "v"),
    **asked: Any,
) -> AttentionCase:
    """A case with a backward. dO, dLSE: their layouts; with dLSE, LSE is asked for. The rest is as in `case`."""
    forward = case(Nq, Nk, d, return_lse=dLSE is not None, **asked)
    through_lse = None if dLSE is None else TensorSpec(layout=dLSE)
    return forward.replace(
        operation="forward_backward", dO=TensorSpec(dO_values, 0, dO), dLSE=through_lse, needs_grad=needs
    )


def _of(names: One, position: int) -> str:
    return names if isinstance(names, str) else names[position]
