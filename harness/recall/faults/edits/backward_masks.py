"""Edits of the backward kernels: who sees whom, which tiles are visited, and what is ever written."""

from __future__ import annotations

from harness.recall.faults.registry import GRADIENT, edit
from harness.recall.faults.witness import gradients

_FILE, _MASK = "portable/device/backward.py", "portable/device/mask.py"
_DIAGONAL = "_diagonal(kv_len, Nq, lower_right)"
_KV_LIMIT = "p = tl.where(_sees(columns[:, None], (diagonal + m0 + offs_m)[None, :]), p, 0.0)"

edit(
    "B",
    "kernel-bwd-align-differs",
    "https://github.com/xlite-dev/ffpa-attn/pull/300",
    "dK and dV know the upper-left diagonal alone.",
    [(f"{_DIAGONAL}\n    seen", f"{_DIAGONAL.replace('lower', '0 * lower')}\n    seen")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, causal="lower_right"),
    twin="bwd-align-differs",
)

edit(
    "B",
    "kernel-dq-lower-right-of-padded",
    None,
    "The lower-right diagonal of dQ ends at Nk, and not at the length.",
    [(f"{_DIAGONAL}\n    full", f"{_DIAGONAL.replace('kv_len', 'Nk')}\n    full")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 3, causal="lower_right", seqlens_k=(2,)),
)

edit(
    "B",
    "kernel-bwd-causal-is-upper-left",
    "https://github.com/xlite-dev/ffpa-attn/pull/300",
    "The backward pass is told that the call was causal, and not which way.",
    [
        (
            "    needs = tuple(ctx.needs_input_grad[:3])\n",
            "    needs = tuple(ctx.needs_input_grad[:3])\n    asked = asked._replace(causal=bool(asked.causal))\n",
        )
    ],
    file="eager.py",
    expects=GRADIENT,
    witness=gradients(1, 2, causal="lower_right"),
    twin="bwd-align-differs",
)

edit(
    "F",
    "kernel-dkv-diagonal-not-masked",
    "https://github.com/triton-lang/triton/issues/4541",
    "Tiles of dK and dV that the diagonal cuts are not masked.",
    [(_KV_LIMIT, "p = p + 0.0")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2, causal=True),
)

edit(
    "F",
    "kernel-dkv-diagonal-one-off",
    None,
    "dK and dV leave the diagonal itself out.",
    [(_KV_LIMIT, _KV_LIMIT.replace("diagonal + m0", "diagonal - 1 + m0"))],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 1, causal=True),
    twin="dkv-diagonal-one-off",
)

edit(
    "F",
    "kernel-first-row-tile-too-late",
    "https://github.com/jax-ml/jax/pull/17314",
    "The causal loop over queries starts a tile late where a tile of keys begins inside a tile of queries.",
    [
        (
            "start = tl.maximum(n0 + 1 - diagonal, 0) // BLOCK_M",
            "start = (tl.maximum(n0 + 1 - diagonal, 0) + BLOCK_M - 1) // BLOCK_M",
        )
    ],
    file=_MASK,
    expects=GRADIENT,
    witness=gradients(64, 64, causal=True, config="64x32x4x2"),
    twin="first-row-tile-too-late",
)

edit(
    "F",
    "kernel-diagonal-tile-taken-for-full",
    None,
    "The last tile of queries that the diagonal cuts counts as wholly visible.",
    [("- diagonal, 0) + BLOCK_M - 1) // BLOCK_M", "- diagonal, 0)) // BLOCK_M")],
    file=_MASK,
    expects=GRADIENT,
    witness=gradients(64, 64, causal=True),
)

edit(
    "C",
    "kernel-query-tail-not-masked",
    "https://github.com/jax-ml/jax/issues/23819",
    "The last tile of queries is read whole, rows past Nq too.",
    [("whole = Nq // BLOCK_M", "whole = (Nq + BLOCK_M - 1) // BLOCK_M")],
    file=_MASK,
    expects=GRADIENT,
    witness=gradients(2, 2),
    slack=True,
)

edit(
    "W",
    "kernel-bwd-padding-lse",
    "https://github.com/tile-ai/tilelang/pull/2461",
    "Rows past the last query have LSE = -inf, and P = exp2(inf), in dK and dV.",
    [('lse = tl.where(sees, lse, float("inf"))\n        else', "lse = lse + 0.0\n        else")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2),
    twin="bwd-padding-lse-uninit",
)

edit(
    "W",
    "kernel-hidden-keys-unwritten",
    "https://github.com/Dao-AILab/flash-attention/pull/2421",
    "dK and dV of keys that no query sees are not written.",
    [("is_key = columns < Nk", "is_key = columns < seen")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, seqlens_k=(1,)),
    twin="dkv-padding-unwritten",
)

edit(
    "C",
    "kernel-hidden-keys-not-zeroed",
    None,
    "dV of keys past the length is what rows gave a key of 0.",
    [("dv = tl.where(is_seen[:, None], dv, 0.0)", "dv = dv + 0.0")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(64, 2, seqlens_k=(1,)),
)

edit(
    "E",
    "kernel-bwd-seqq0-nan",
    "https://github.com/Dao-AILab/flash-attention/pull/2421",
    "Without queries the kernel of dK and dV is not launched.",
    [
        (
            "(need_k or need_v) and forward.B * forward.Hk * forward.Nk else None",
            "(need_k or need_v) and forward.B * forward.Hk * forward.Nk * forward.Nq else None",
        )
    ],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(0, 1),
    twin="bwd-seqq0-nan",
)

edit(
    "C",
    "kernel-bwd-lengths-not-kept",
    None,
    "seqlens_k is not kept for the backward pass, which takes the padding for keys.",
    [("asked.v, asked.seqlens_k, o, lse)", "asked.v, None, o, lse)")],
    file="eager.py",
    expects=GRADIENT,
    witness=gradients(1, 2, seqlens_k=(1,)),
    twin="bwd-lengths-ignored",
)
