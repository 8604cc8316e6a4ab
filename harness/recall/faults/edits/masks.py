"""Edits of masks: empty rows, the diagonal, tails of keys and of the head dimension."""

from __future__ import annotations

from harness.recall.faults.registry import LSE, edit
from harness.recall.faults.witness import case

_LIMITS = "_limits_of_tile(m0, offs_m, diagonal, kv_len, Nq, BLOCK_M, BLOCK_N, CAUSAL)\n"
_LOAD_K = "k = _load_rows(k_ptr, k_offsets, readable, in_d, MASKED, PAD_D, FAST)"
_LOAD_V = "v = _load_rows(v_ptr, v_offsets, readable, in_d, MASKED, PAD_D, FAST)"

edit(
    "A",
    "empty-row-nan",
    "https://github.com/pytorch/pytorch/issues/103749",
    "The guard of the running max is dropped: a row that has seen no key computes -inf - -inf.",
    [('m_finite = tl.where(m_new == -float("inf"), 0.0, m_new)', "m_finite = m_new + 0.0")],
    witness=case(2, 1, causal="lower_right"),
    twin="sdpa-empty-row-nan",
)

edit(
    "A",
    "empty-row-zero-sum",
    "https://github.com/pytorch/pytorch/issues/103749",
    "A row that saw no key divides 0 by a row sum of 0.",
    [("l = tl.where(l == 0.0, 1.0, l)", "l = l + 0.0")],
    witness=case(1, 1, seqlens_k=(0,)),
)

edit(
    "A",
    "empty-row-mean-of-values",
    None,
    "Hidden keys score -1e30 and not -inf, so a row that sees none averages V over the tile.",
    [
        (
            'scores = tl.where(_sees(columns[None, :], row_limit), scores, -float("inf"))',
            "scores = tl.where(_sees(columns[None, :], row_limit), scores, -1e30)",
        )
    ],
    witness=case(2, 1, causal="lower_right"),
    twin="empty-row-uniform",
)

edit(
    "B",
    "causal-top-left",
    "https://github.com/Dao-AILab/flash-attention/issues/282",
    "A lower-right diagonal is aligned upper-left.",
    [("_diagonal(kv_len, Nq, lower_right)", "_diagonal(kv_len, Nq, 0 * lower_right)")],
    witness=case(1, 2, causal="lower_right"),
    twin="sdpa-causal-top-left",
)

edit(
    "B",
    "lower-right-of-padded-keys",
    "https://github.com/Dao-AILab/flash-attention/issues/282",
    "A lower-right diagonal ends at the padded length Nk, not at seqlens_k.",
    [("_diagonal(kv_len, Nq, lower_right)", "_diagonal(Nk, Nq, lower_right)")],
    witness=case(2, 3, causal="lower_right", seqlens_k=(2,)),
)

edit(
    "C",
    "noncausal-tail-denominator",
    "https://github.com/flashinfer-ai/flashinfer/issues/3716",
    "Without a diagonal the padding lanes of the last tile, score 0, enter the row sum.",
    [(_LIMITS, _LIMITS + "    row_limit = row_limit if CAUSAL else (kv_len + BLOCK_N - 1) // BLOCK_N * BLOCK_N\n")],
    witness=case(1, 1),
    twin="tail-denominator",
)

edit(
    "C",
    "causal-tail-past-length",
    "https://github.com/flashinfer-ai/flashinfer/issues/3716",
    "Under a diagonal the end of the keys is not masked: rows past it see padding lanes.",
    [("limit = tl.minimum(own, kv_len)[:, None]", "limit = own[:, None]")],
    file="portable/device/mask.py",
    witness=case(2, 1, causal=True),
)

edit(
    "W",
    "cache-padding-nan",
    "https://github.com/Dao-AILab/flash-attention/issues/1745",
    "V is loaded without a mask in the last tile: weight 0 times what stands past the end.",
    [(_LOAD_V, _LOAD_V.replace("MASKED", "False"))],
    witness=case(1, 2, seqlens_k=(1,), past_end="nan"),
    slack=True,
    twin="padding-value-nan",
)

edit(
    "I",
    "nan-in-masked-key",
    "https://github.com/pytorch/pytorch/issues/101967",
    "K is loaded without a mask in the last tile and the mask is added: NaN + -inf is NaN.",
    [
        (_LOAD_K, _LOAD_K.replace("MASKED", "False")),
        (
            'scores = tl.where(_sees(columns[None, :], row_limit), scores, -float("inf"))',
            'scores = scores + tl.where(_sees(columns[None, :], row_limit), 0.0, -float("inf"))',
        ),
    ],
    witness=case(1, 2, seqlens_k=(1,), past_end="nan"),
    slack=True,
    twin="additive-mask-nan",
)

edit(
    "T",
    "masked-load-no-other",
    "https://github.com/triton-lang/triton/issues/737",
    "Masked lanes of V hold anything (here NaN), as without `other`, and weight 0 does not silence them.",
    [(_LOAD_V, f'{_LOAD_V}\n        if MASKED:\n            v = tl.where(readable, v, float("nan"))')],
    witness=case(1, 1),
)

edit(
    "D",
    "hd-not-x16-silent",
    "https://github.com/flashinfer-ai/flashinfer/issues/4299",
    "The products of Q and K go in steps of 16 channels: the last d % 16 are left out.",
    [("is_query, in_d, PAD_D,", "is_query, in_d & ((offs_d < d // 16 * 16) | (d < 16))[None, :], PAD_D,")],
    witness=case(1, 2, 17),
    twin="hd-not-x16-skipped",
)

edit(
    "D",
    "padded-channels-of-k",
    None,
    "Channels from d to the tile's width of K are read in the last tile: 0 times what stands between the rows.",
    [
        (_LOAD_K, _LOAD_K.replace("PAD_D", "PAD_D and not MASKED")),
    ],
    witness=case(1, 1, 3),
    slack=True,
)

edit(
    "D",
    "scale-from-padded-d",
    "https://github.com/tile-ai/tilelang-ascend/issues/1669",
    "The default scale is that of the padded head dimension.",
    [("return float(d**-0.5)", "return float(max(16, 1 << (d - 1).bit_length()) ** -0.5)")],
    file="call/arguments.py",
    witness=case(1, 2, 17),
    twin="default-scale-of-padded-d",
)

edit(
    "A",
    "empty-row-lse-finite",
    None,
    "The guard of the running max is kept for LSE: a row that saw no key has LSE = 0.",
    [
        (
            "lse = (m + tl.math.log2(l)) * 0.6931471805599453",
            'lse = (tl.where(m == -float("inf"), 0.0, m) + tl.math.log2(l)) * 0.6931471805599453',
        )
    ],
    witness=case(1, 1, seqlens_k=(0,), return_lse=True),
    expects=LSE,
)

edit(
    "C",
    "lengths-not-clipped-by-tile",
    None,
    "With seqlens_k the last tile is masked at the padded length: keys past the end in the same tile are seen.",
    [(_LIMITS, _LIMITS + "    row_limit = tl.minimum(m0 + diagonal + offs_m, Nk)[:, None] if CAUSAL else Nk\n")],
    witness=case(1, 2, seqlens_k=(1,)),
)
