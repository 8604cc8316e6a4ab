"""The kernel's Hopper paths alone, which `kernel.flash_attention` takes by itself for problems of some size."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.subject.adapters._conventions import declares
from harness.subject.importing import import_ours

flash_attention = import_ours("kernel").flash_attention

_EXACT = ("deterministic", "batch_invariant", "gqa_invariant", "layout_invariant", "mask_invariant", "scale_invariant")


@declares(
    alignments=("upper_left", "lower_right"),
    dtypes=("fp16", "bf16"),
    head_dims=tuple(range(40, 257, 8)),
    layouts=("contiguous", "bshd", "sliced", "packed_qkv"),
    devices=("cuda",),
    exact=_EXACT,
    differentiable=True,
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: Any = False,
    seqlens_k: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    """`kernel.flash_attention` with config="hopper", which refuses what the forward path does not take.

    Its backward is the Hopper one up to d 128 and the portable one above.
    """
    return flash_attention(q, k, v, causal, seqlens_k, scale, return_lse, config="hopper")
