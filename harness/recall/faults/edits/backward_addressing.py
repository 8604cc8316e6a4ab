"""Edits of the backward kernels: strides of dO and dLSE, head groups, grids."""

from __future__ import annotations

from harness.recall.faults.registry import GRADIENT, edit
from harness.recall.faults.witness import gradients

_FILE = "portable/device/backward.py"
_PLACE = "    head, b, hq, hk, m0 = _place_query_tile(heads, Hq, group, Nq, section, BLOCK_M, CAUSAL)\n"

edit(
    "L",
    "kernel-dout-noncontiguous",
    "https://github.com/Dao-AILab/flash-attention/issues/355",
    "δ reads dO with O's strides.",
    [
        (
            "do_ptr += b * stride_dob + hq * stride_doh\n    o_offsets",
            "do_ptr += b * stride_ob + hq * stride_oh\n    o_offsets",
        ),
        ("_tile_offsets(rows, offs_d, stride_don, stride_dod,", "_tile_offsets(rows, offs_d, stride_on, stride_od,"),
    ],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2, dO="column_major"),
    slack=True,
    twin="dout-noncontiguous",
)

edit(
    "L",
    "kernel-dout-at-q-strides",
    "https://github.com/Dao-AILab/flash-attention/issues/355",
    "dK and dV find a head of dO with Q's strides.",
    [
        (
            "do_ptr += b * stride_dob + hk64 * group * stride_doh",
            "do_ptr += b * stride_qb + hk64 * group * stride_qh",
        )
    ],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2, Hq=2, Hk=2, dO="bshd"),
    slack=True,
)

edit(
    "M",
    "kernel-fast-dout-by-q",
    None,
    "dO is read in whole words where Q, K and V may be.",
    [("is_fast(forward.dtype, forward.d, (problem.dO_aligned,), (dO,))", 'shared["FAST"]')],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(2, 2, dO="column_major"),
    slack=True,
)

edit(
    "L",
    "kernel-dlse-taken-for-contiguous",
    None,
    "The rows of dLSE are taken for neighbours.",
    [("hq * stride_dlh + rows * stride_dln", "hq * stride_dlh + rows")],
    file=_FILE,
    expects=GRADIENT | {"out_of_bounds"},
    witness=gradients(2, 2, dLSE="sliced"),
)

edit(
    "N",
    "kernel-dq-gqa-modulo",
    None,
    "dQ of query head h reads KV head h % Hk.",
    [(_PLACE, _PLACE + "    hk = hq % (Hq // group)\n")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=4, Hk=2),
)

edit(
    "N",
    "kernel-group-starts-at-kv-head",
    "https://github.com/jax-ml/jax/pull/39521",
    "The first query head of KV head h is h, and not h times the group.",
    [("q_ptr += b * stride_qb + hk64 * group * stride_qh", "q_ptr += b * stride_qb + hk64 * stride_qh")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=4, Hk=2),
)

edit(
    "Y",
    "kernel-rows-of-first-of-group",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    "All query heads of a group have LSE and δ of its first in dK and dV.",
    [("row0 = g * Nq.to(tl.int64) + m0", "row0 = (g * 0).to(tl.int64) + m0")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=2),
)

edit(
    "Y",
    "kernel-delta-of-first-of-group",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    "All query heads of a group have the δ of its first in dK.",
    [
        (
            "delta = tl.load(delta_ptr + row0 + offs_m, mask=sees, other=0.0)\n            else",
            "delta = tl.load(delta_ptr + m0 + offs_m, mask=sees, other=0.0)\n            else",
        ),
        ("delta = tl.load(delta_ptr + row0 + offs_m)", "delta = tl.load(delta_ptr + m0 + offs_m)"),
    ],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=2),
    twin="delta-of-kv-head",
)

edit(
    "R",
    "kernel-delta-grid-of-other-tile",
    "https://github.com/triton-lang/triton/pull/2020",
    "The grid of δ is that of tiles twice as tall.",
    [("grid(forward.heads, forward.Nq, rows)", "grid(forward.heads, forward.Nq, 2 * rows)")],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(17, 2, 256),
    twin="bwd-block-neq-fwd-block",
)
