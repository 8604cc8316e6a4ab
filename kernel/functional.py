"""The user's call: FlashAttention on (B, H, N, d) tensors."""

from __future__ import annotations

import torch

from .call.arguments import ALIGNMENTS, DTYPES, MAX_HEAD_DIM, Asked
from .call.launch import INTERPRETED
from .eager import FlashAttention, flash_attn_forward, is_differentiated
from .ops import as_operator_takes, flash_attention_forward
from .tiles.config import TileConfig


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    config: TileConfig | str | None = None,
    deterministic: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """softmax(scale * q k^T) v without the Nq x Nk matrix in memory, differentiable in q, k and v.

    Args:
        q: (B, Hq, Nq, d) in fp16, bf16 or fp32, any strides, d from 1 to 256.
        k: (B, Hk, Nk, d) like q, Hq a multiple of Hk: query head h reads key head h // (Hq // Hk).
        v: like k.
        causal: True or "upper_left" lets query i see the keys j <= i, as torch's `is_causal`; "lower_right" lets the
            last query see the last key: j <= i + seqlens_k[b] - Nq (Nk without seqlens_k), as flash-attn since 2.1.
        seqlens_k: (B,) int32 or int64 on q's device, 0..Nk; keys at or past it are never read. Values out of range
            raise on a CPU; on CUDA, where looking would stall the stream, they are clamped to 0..Nk.
        scale: any float finite in fp32, d ** -0.5 when None.
        return_lse: also return the log-sum-exp of the scaled scores.
        config: None takes the best path and its shipped tile (`choose.py` says which: Hopper's own for fp16 and bf16 on
            sm_90, the one for decoding where few rows meet many keys, else the portable one).
            "hopper", "portable" and "decode" (at most 16 query rows) name a path, and
            "hopper:128x128x2x1" its tile too; "64x64x4x3" (query rows x keys x warps x stages) or a `TileConfig` is a
            tile of the portable path, which the interpreter takes as well. "autotune" compiles and times every tile
            in the first call of each kind of problem (device, dtype, d, mask; Nq, Nk and heads by powers of two),
            which takes seconds; `tuning.save` and `tuning.load` keep what it found. After a slash comes what the
            backward pass takes, as in "hopper/portable", "/64x128x8x2+128x64x8x2" (the portable path's tile for dK and
            dV, and that for dQ) or "/autotune"; without one it takes its best path, or autotunes where the forward
            does, or uses the tile of a pinned portable forward where it fits the backward's kernels. "/fused" is the
            fastest path on sm_90, which None takes; "/hopper" is the one that config="hopper" takes.
        deterministic: makes the backward give the same bits in every run, as does
            `torch.use_deterministic_algorithms(True)`. Only "/fused" does not: it adds up dQ in no fixed order. It is
            not taken either where config names the forward's path alone.

    Returns:
        O, contiguous, with q's shape and dtype; with return_lse also LSE, natural log, fp32, (B, Hq, Nq). A row that
        sees no key has O = 0 and LSE = -inf, and its gradients are 0, as are those of keys that no row sees.

    Raises:
        TypeError, ValueError: one sentence with the argument, what came and what is legal.
        NotImplementedError: a pinned tile that cannot run on the device, or a pinned path that refuses the call.
        RuntimeError: "autotune" in a call that would have to be measured while a CUDA graph is recorded.
    """
    asked = Asked(q, k, v, causal, seqlens_k, scale, config, deterministic)
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        # What records calls (a compiler, fake tensors, a counter of FLOPs) sees the forward pass as one operator.
        o, lse = flash_attention_forward(*as_operator_takes(asked))
    elif is_differentiated(q, k, v):
        o, lse = FlashAttention.apply(*asked)  # type: ignore[no-untyped-call]
    else:
        o, lse = flash_attn_forward(asked)
    return (o, lse) if return_lse else o


# What the function declares to a test harness; "configs" are worth testing against each other. Not promised:
# unit_weight, since compiled in fp32 a row that sees one key comes out one unit in the last place off; and, compiled,
# layout_invariant, since a layout that TMA does not take goes to another path, and deterministic, since the fused
# backward adds up dQ in no fixed order (O, LSE, dK and dV have the same bits in every run, and dQ with
# deterministic=True).
flash_attention.__flashattest__ = {  # type: ignore[attr-defined]
    "alignments": ALIGNMENTS,
    "dtypes": tuple(DTYPES),
    "max_head_dim": MAX_HEAD_DIM,
    "differentiable": True,
    "configs": (
        "16x16x4x1",
        "32x64x4x2",
        "64x32x4x2",
        "64x64x4x3",
        "128x64x8x3",
        *(() if INTERPRETED else ("portable",)),
    ),
    "exact": (
        *("batch_invariant", "gqa_invariant", "mask_invariant", "scale_invariant"),
        *(("deterministic", "layout_invariant") if INTERPRETED else ()),
    ),
}
