"""Edits of which tiles are visited, and which rows are ever written."""

from __future__ import annotations

from harness.recall.faults.registry import LSE, edit
from harness.recall.faults.witness import case

edit(
    "F",
    "upper-bound-bm-gt-bn",
    "https://github.com/jax-ml/jax/pull/17314",
    "The last key tile is that of the query tile's first row, which is too early where BLOCK_M > BLOCK_N.",
    [
        (
            "last = first + tl.minimum(BLOCK_M, Nq - m0) - 1",
            "last = ((first + BLOCK_N - 1) // BLOCK_N) * BLOCK_N",
        )
    ],
    file="portable/device/mask.py",
    witness=case(64, 64, causal=True, config="64x32x4x2"),
    twin="bound-bm-gt-bn",
)

edit(
    "F",
    "last-visible-key-lost",
    None,
    "The bound of a causal tile is one key short: its last row never sees its own key.",
    [
        (
            "last = first + tl.minimum(BLOCK_M, Nq - m0) - 1",
            "last = first + tl.minimum(BLOCK_M, Nq - m0) - 2",
        )
    ],
    file="portable/device/mask.py",
    witness=case(2, 2, causal=True),
)

edit(
    "F",
    "full-tiles-rounded-up",
    None,
    "One tile too many counts as wholly visible, so the tile that the diagonal or the end cuts has no mask.",
    [("return full // BLOCK_N * BLOCK_N,", "return (full + BLOCK_N - 1) // BLOCK_N * BLOCK_N,")],
    file="portable/device/mask.py",
    witness=case(1, 3, 16),
    slack=True,
)

edit(
    "F",
    "tail-of-one-key-skipped",
    None,
    "The masked loop ends one key early, so that a last tile of a single key is not visited.",
    [("scale_log2, full, visible, visible,", "scale_log2, full, visible - (full > 0), visible,")],
    witness=case(1, 65),
    twin="tail-of-one-dropped",
)

edit(
    "F",
    "first-tile-skipped-after-two",
    None,
    "The loop without a mask starts at the second tile where there are more than two: a prologue was taken for done.",
    [
        (
            "scale_log2, 0, full, visible,",
            "scale_log2, tl.where(full > 2 * BLOCK_N, BLOCK_N, 0), full, visible,",
        )
    ],
    witness=case(1, 48, config="16x16x4x1"),
)

edit(
    "W",
    "zero-len-row-not-written",
    "https://github.com/vllm-project/vllm/pull/37442",
    "A batch entry without keys returns before the store, and O keeps what stood there.",
    [
        (
            "kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)",
            "kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)\n    if kv_len == 0:\n        return",
        )
    ],
    witness=case(1, 1, seqlens_k=(0,)),
    twin="zero-len-rows-left",
)

edit(
    "E",
    "empty-lse-slot",
    "https://github.com/Dao-AILab/flash-attention/issues/2842",
    "The LSE of a batch entry without keys goes to the slot of the same head in batch entry 0.",
    [
        (
            "tl.store(lse_ptr + row0 + offs_m, lse, mask=is_query)",
            "lse_head = tl.where(kv_len == 0, hq, head).to(tl.int64)\n"
            "    tl.store(lse_ptr + lse_head * Nq + m0 + offs_m, lse, mask=is_query)",
        )
    ],
    witness=case(1, 2, B=2, seqlens_k=(2, 0), return_lse=True),
    expects=LSE,
    twin="splitkv-early-exit-lse-slot",
)

edit(
    "R",
    "autotune-masks-partial-writer",
    "https://github.com/triton-lang/triton/issues/9230",
    "The configurations with BLOCK_M = 128 round the grid down, so that the last rows are not written.",
    [
        (
            "return (heads * triton.cdiv(Nq, BLOCK_M),)",
            "return (heads * (triton.cdiv(Nq, BLOCK_M) if BLOCK_M != 128 else max(1, Nq // BLOCK_M)),)",
        )
    ],
    file="portable/bind.py",
    witness=case(129, 1, config="128x64x8x3"),
)

edit(
    "K",
    "grid-axis-clamped",
    "https://github.com/flashinfer-ai/flashinfer/issues/3125",
    "The grid ends at 127 heads (a stand-in for 65,535, the end of a CUDA grid's other axes); the rest is not written.",
    [("return (heads * triton.cdiv(Nq, BLOCK_M),)", "return (min(heads, 127) * triton.cdiv(Nq, BLOCK_M),)")],
    file="portable/bind.py",
    witness=case(1, 1, 1, B=2, Hq=65, Hk=65),
    twin="grid-z-silent",
)

edit(
    "E",
    "single-query-sees-all",
    "https://github.com/pytorch/pytorch/pull/192138",
    "The path of a single query takes an upper-left diagonal for the end of the keys.",
    [
        (
            '"CAUSAL": problem.causal,',
            '"CAUSAL": problem.causal and problem.Nq > 1,',
        )
    ],
    file="portable/bind.py",
    witness=case(1, 2, causal=True),
    twin="single-query-remap",
)

edit(
    "F",
    "diagonal-not-masked",
    "https://github.com/triton-lang/triton/issues/4541",
    "The tiles that the diagonal cuts are masked at the end of the keys alone.",
    [("limit = tl.minimum(own, kv_len)[:, None]", "limit = kv_len")],
    file="portable/device/mask.py",
    witness=case(2, 2, causal=True),
)
