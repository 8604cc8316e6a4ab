"""The forward pass as an operator of torch: what `torch.compile`, `torch.export` and fake tensors see of it.

`torch.ops.flashattest.flash_attention_forward` runs what `forward.flash_attn_forward` runs. Eager calls of
`kernel.flash_attention` do not pass through it, since the dispatcher costs microseconds.
"""

from __future__ import annotations

import itertools

import torch

from .forward import flash_attn_forward

_NAME = "flash_attention_forward"


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
    "str? config=None) -> (Tensor o, Tensor lse)",
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """O and LSE without values; what is wrong with the arguments is said when the operator runs."""
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


_LIBRARY.impl(_NAME, _run, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::{_NAME}", _fake, lib=_LIBRARY)
# A backward belongs here, by `torch.library.register_autograd`; until then inputs that require grad are refused.

flash_attention_forward = getattr(getattr(torch.ops, NAMESPACE), _NAME).default
"""The operator: (q, k, v, causal, seqlens_k, scale, config) -> (O, LSE).

causal: the alignment or None. config: as text. All else, and the errors, as `forward.flash_attn_forward`.
"""
