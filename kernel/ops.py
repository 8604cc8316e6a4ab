"""The two passes as operators of torch: what `torch.compile`, `torch.export` and fake tensors see of them.

`torch.ops.flashattest.flash_attention_forward` runs what `eager.flash_attn_forward` runs, and its derivative is
`flash_attention_backward`, which runs `eager.flash_attn_backward`. Eager calls of `kernel.flash_attention` do not pass
through them, since the dispatcher costs microseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch

from .call.arguments import Asked, alignment_of
from .call.problem import Needs
from .eager import Gradients, flash_attn_backward, flash_attn_forward, gradients, keep, one_for_each_field
from .tiles.config import TileConfig

_NAME = "flash_attention_forward"
_BACKWARD = "flash_attention_backward"


def _namespace() -> str:
    """Where the operator is registered: torch knows it by its name, and refuses the same name twice.

    So a copy of this package under another name has operators of its own, and so has this one when it is imported
    again, after another `kernel`.
    """
    first = "flashattest" if __package__ == "kernel" else f"flashattest_{__package__}"
    names = itertools.chain([first], (f"{first}_{n}" for n in itertools.count(2)))
    return next(name for name in names if not hasattr(getattr(torch.ops, name), _NAME))


NAMESPACE = _namespace()
_LIBRARY: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    f"{_NAME}(Tensor q, Tensor k, Tensor v, str? causal=None, Tensor? seqlens_k=None, float? scale=None, "
    "str? config=None, bool deterministic=False) -> (Tensor o, Tensor lse)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.define(
    f"{_BACKWARD}(Tensor? dO, Tensor? dLSE, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, str? causal, "
    "Tensor? seqlens_k, float? scale, str? config, bool[] needs, bool deterministic=False) "
    "-> (Tensor dQ, Tensor dK, Tensor dV)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def as_operator_takes(asked: Asked) -> Asked:
    """The fields in the operator's types: the alignment or None for `causal`, text or None for `config`."""
    config = str(asked.config) if isinstance(asked.config, TileConfig) else asked.config
    return asked._replace(causal=alignment_of(asked.causal), config=config)  # type: ignore[arg-type]


def _run(*fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return flash_attn_forward(_asked(*fields))


def _asked(*fields: Any) -> Asked:
    """What an operator's arguments ask for; torch leaves out the last ones where they have their default."""
    asked = Asked(*fields)
    return asked._replace(causal=asked.causal or False)


def _fake(q: torch.Tensor, *_fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """O and LSE without values; what is wrong with the arguments is said when the operator runs."""
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


def _run_backward(
    dO: torch.Tensor | None, dLSE: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
    o: torch.Tensor, lse: torch.Tensor, causal: str | None, seqlens_k: torch.Tensor | None, scale: float | None,
    config: str | None, needs: Sequence[bool], *later: Any,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """DQ, dK and dV; an operator cannot return None, so what is not needed comes back empty."""
    asked = _asked(q, k, v, causal, seqlens_k, scale, config, *later)
    grads = flash_attn_backward(dO, dLSE, asked, o, lse, cast(Needs, tuple(needs)))
    return tuple(q.new_empty(0) if grad is None else grad for grad in grads)


def _fake_backward(
    _dO: torch.Tensor | None, _dLSE: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    return tuple(x.new_empty(x.shape if need else 0) for x, need in zip((q, k, v), rest[6], strict=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    keep(ctx, Asked(*inputs), *output)


def _differentiate(ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    grads = gradients(ctx, dO, dLSE, _backward_operator)
    dQ, dK, dV = (grad if need else None for grad, need in zip(grads, ctx.needs_input_grad[:3], strict=True))
    return one_for_each_field((dQ, dK, dV))


def _backward_operator(
    dO: torch.Tensor | None, dLSE: torch.Tensor | None, asked: Asked, o: torch.Tensor, lse: torch.Tensor, needs: Needs
) -> Gradients:
    """`flash_attn_backward` as an operator."""
    # A new field comes after `needs`, with a default, so that calls that were recorded before it still run.
    q, k, v, causal, seqlens_k, scale, config, *later = asked
    dQ, dK, dV = flash_attention_backward(dO, dLSE, q, k, v, o, lse, causal, seqlens_k, scale, config, needs, *later)
    return dQ, dK, dV


_LIBRARY.impl(_NAME, _run, "CompositeExplicitAutograd")
_LIBRARY.impl(_BACKWARD, _run_backward, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::{_NAME}", _fake, lib=_LIBRARY)
torch.library.register_fake(f"{NAMESPACE}::{_BACKWARD}", _fake_backward, lib=_LIBRARY)
torch.library.register_autograd(f"{NAMESPACE}::{_NAME}", _differentiate, setup_context=_keep, lib=_LIBRARY)

flash_attention_forward = getattr(getattr(torch.ops, NAMESPACE), _NAME).default
"""The operator: (q, k, v, causal, seqlens_k, scale, config, deterministic) -> (O, LSE).

causal: the alignment or None. config: as text. All else, and the errors, as `eager.flash_attn_forward`.
"""

flash_attention_backward = getattr(getattr(torch.ops, NAMESPACE), _BACKWARD).default
"""The operator: (dO, dLSE, q, k, v, O, LSE, causal, seqlens_k, scale, config, needs, deterministic) -> (dQ, dK, dV).

What is not needed is an empty tensor; all else as `eager.flash_attn_backward`.
"""
