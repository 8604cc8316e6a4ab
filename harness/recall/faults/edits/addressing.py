"""Edits of addresses: strides, alignment, head groups, narrow offsets."""

from __future__ import annotations

from harness.recall.faults.registry import edit
from harness.recall.faults.witness import case

_K_BASE = "k_ptr += b * stride_kb + hk * stride_kh"
_V_BASE = "v_ptr += b * stride_vb + hk * stride_vh"

edit(
    "L",
    "kv-strides-swapped",
    "https://github.com/flagos-ai/FlagAttention/issues/45",
    "The first K tile of a head is found with V's strides and the first V tile with K's.",
    [(_K_BASE, "k_ptr += b * stride_vb + hk * stride_vh"), (_V_BASE, "v_ptr += b * stride_kb + hk * stride_kh")],
    witness=case(1, 2, B=2, layout=("contiguous", "sliced", "contiguous")),
    slack=True,
    twin="k-at-v-strides",
)

edit(
    "L",
    "v-rows-at-k-pitch",
    "https://github.com/flagos-ai/FlagAttention/issues/45",
    "Rows of V inside a tile are addressed with K's row stride; the tiles themselves are found rightly.",
    [("_tile_offsets(offs_n, offs_d, stride_vn,", "_tile_offsets(offs_n, offs_d, stride_kn,")],
    witness=case(1, 2, layout=("contiguous", "contiguous", "sliced")),
    slack=True,
)

edit(
    "L",
    "v-batch-stride-of-k",
    None,
    "V's batch stride is taken from K, which an expanded K sets to 0.",
    [(_V_BASE, "v_ptr += b * stride_kb + hk * stride_vh")],
    witness=case(1, 1, B=2, layout=("contiguous", "expanded_batch", "contiguous")),
    slack=True,
)

edit(
    "L",
    "unit-d-stride-assumed",
    None,
    "The last stride of Q is taken for 1.",
    [("stride_qn, stride_qd, WIDE, FAST)", "stride_qn, stride_qd, WIDE, True)")],
    witness=case(2, 2, layout="column_major"),
    slack=True,
)

edit(
    "L",
    "output-allocated-like-q",
    "https://github.com/ROCm/flash-attention/pull/122",
    "O is allocated with Q's strides and written as if it were contiguous.",
    [
        (
            "o = torch.empty_like(q, memory_format=torch.contiguous_format)",
            "o = torch.empty_like(q)",
        )
    ],
    file="eager.py",
    witness=case(2, 2, Hq=2, Hk=2, layout=("bshd", "contiguous", "contiguous")),
    twin="output-with-q-strides",
)

edit(
    "M",
    "aligned-kernel-wrong-pick",
    "https://github.com/microsoft/onnxruntime/issues/28376",
    "The path for contiguous, aligned rows is picked from the head dimension and the pointer, not the strides.",
    [("and all(s[3] == 1 and all(stride % unit == 0 for stride in s[:3]) for s in strides)", "and bool(strides)")],
    file="portable/bind.py",
    witness=case(2, 2, layout="column_major"),
    slack=True,
)

edit(
    "N",
    "gqa-modulo",
    None,
    "Query head h reads KV head h % Hk instead of h // group.",
    [("hk = hq // group", "hk = hq % (Hq // group)")],
    file="portable/device/tile.py",
    witness=case(1, 1, Hq=4, Hk=2),
    twin="gqa-interleaved",
)

edit(
    "N",
    "gqa-query-head",
    "https://github.com/jax-ml/jax/pull/39521",
    "Query head h reads KV head h, or the last where there is none.",
    [("hk = hq // group", "hk = tl.minimum(hq, Hq // group - 1)")],
    file="portable/device/tile.py",
    witness=case(1, 1, Hq=4, Hk=2),
)

edit(
    "J",
    "offset-of-16-bits",
    "https://github.com/Dao-AILab/flash-attention/issues/2611",
    "The offset of a batch entry and head of K wraps at 2^16 elements (a stand-in for 2^31).",
    [(_K_BASE, "k_ptr += (b * stride_kb + hk * stride_kh) & 0xFFFF")],
    witness=case(1, 1025, 64, B=2),
)

edit(
    "L",
    "batch-of-lengths",
    None,
    "The stride of seqlens_k is dropped: the length of batch entry 0 holds for all.",
    [("kv_len = tl.load(seqlens_ptr + b * stride_seqlens)", "kv_len = tl.load(seqlens_ptr)")],
    file="portable/device/mask.py",
    witness=case(1, 2, B=2, seqlens_k=(1, 2)),
)
