"""The two passes as operators of torch: what `torch.compile`, `torch.export` and fake tensors see of them.

`torch.ops.flashattest.flash_attention_forward` runs what `forward.flash_attn_forward` runs, and its derivative is
`flash_attention_backward`, which runs `backward.flash_attn_backward`. Eager calls of
`kernel.flash_attention` do not pass through it, since the dispatcher costs microseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch

from .autograd import gradients
from .backward import flash_attn_backward
from .backward_arguments import Needs
from .forward import flash_attn_forward

_NAME = "flash_attention_forward"
_BACKWARD = "flash_attention_backward"


def _namespace() -> str:
    """Where the operator is registered: torch knows it by its name alone, and a second time refuses it.

    So a copy of this package under another name has operators of its own, and so has this one imported anew, where
    another `kernel` was in between.
    """
    first = "flashattest" if __package__ == "kernel" else f"flashattest_{__package__}"
    names = itertools.chain([first], (f"{first}_{n}" for n in itertools.count(2)))
    return next(name for name in names if not hasattr(getattr(torch.ops, name), _NAME))


NAMESPACE = _namespace()
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
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


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: str | None = None,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: str | None = None,
    deterministic: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    return flash_attn_forward(q, k, v, causal or False, seqlens_k, scale, config)


def _fake(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: str | None = None,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: str | None = None,
    deterministic: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """O and LSE without values; what is wrong with the arguments is said when the operator runs."""
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


def _run_backward(
    dO: torch.Tensor | None,
    dLSE: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    causal: str | None,
    seqlens_k: torch.Tensor | None,
    scale: float | None,
    config: str | None,
    needs: Sequence[bool],
    deterministic: bool = False,
) -> tuple[torch.Tensor, ...]:
    """DQ, dK and dV; an operator cannot return None, so what is not needed comes back empty."""
    wanted = cast(Needs, tuple(needs))
    arguments = (causal or False, seqlens_k, scale, config, wanted, deterministic)
    grads = flash_attn_backward(dO, dLSE, q, k, v, o, lse, *arguments)
    return tuple(q.new_empty(0) if grad is None else grad for grad in grads)


def _fake_backward(
    dO: torch.Tensor | None,
    dLSE: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    causal: str | None,
    seqlens_k: torch.Tensor | None,
    scale: float | None,
    config: str | None,
    needs: Sequence[bool],
    deterministic: bool = False,
) -> tuple[torch.Tensor, ...]:
    return tuple(x.new_empty(x.shape if need else 0) for x, need in zip((q, k, v), needs, strict=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, causal, seqlens_k, scale, config, deterministic = inputs
    ctx.save_for_backward(q, k, v, *output, seqlens_k)
    ctx.arguments = causal, scale, config, deterministic
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    grads = gradients(ctx, dO, dLSE, flash_attention_backward)
    needed = (grad if need else None for grad, need in zip(grads, ctx.needs_input_grad, strict=False))
    return (*needed, None, None, None, None, None)


_LIBRARY.impl(_NAME, _run, "CompositeExplicitAutograd")
_LIBRARY.impl(_BACKWARD, _run_backward, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::{_NAME}", _fake, lib=_LIBRARY)
torch.library.register_fake(f"{NAMESPACE}::{_BACKWARD}", _fake_backward, lib=_LIBRARY)
torch.library.register_autograd(f"{NAMESPACE}::{_NAME}", _differentiate, setup_context=_keep, lib=_LIBRARY)

flash_attention_forward = getattr(getattr(torch.ops, NAMESPACE), _NAME).default
"""The operator: (q, k, v, causal, seqlens_k, scale, config, deterministic) -> (O, LSE).

causal: the alignment or None. config: as text. All else, and the errors, as `forward.flash_attn_forward`.
"""

flash_attention_backward = getattr(getattr(torch.ops, NAMESPACE), _BACKWARD).default
"""The operator: (dO, dLSE, q, k, v, O, LSE, causal, seqlens_k, scale, config, needs, deterministic) -> (dQ, dK, dV).

What is not needed is an empty tensor; all else as `backward.flash_attn_backward`.
"""
