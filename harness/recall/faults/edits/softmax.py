"""Edits of the running max, the row sum, the scale and LSE."""

from __future__ import annotations

from harness.recall.faults.registry import LSE, edit
from harness.recall.faults.witness import case

_MAX = "m_new = tl.maximum(m, tl.max(scores, 1) * scale_log2)"
_SUM = "l = l * alpha + tl.sum(p, 1)"
_LSE = "lse = (m + tl.math.log2(l)) * 0.6931471805599453"
_TILES_OF_16 = "16x16x4x1"

edit(
    "G",
    "no-previous-max",
    "https://github.com/tile-ai/tilelang/pull/1148",
    "The running max is that of the tile alone: exp2 overflows where an earlier tile held the row's maximum.",
    [(_MAX, "m_new = tl.max(scores, 1) * scale_log2")],
    witness=case(1, 32, 64, values=("positive", "falling", "normal"), scale=1.0, config=_TILES_OF_16),
    twin="tile-max-alone",
)

edit(
    "G",
    "acc-not-rescaled",
    None,
    "The accumulator is not rescaled when the running max moves.",
    [("acc = acc * alpha[:, None]", "acc = acc + 0.0 * alpha[:, None]")],
    witness=case(1, 32, values=("positive", "rising", "normal"), config=_TILES_OF_16),
)

edit(
    "G",
    "row-sum-not-rescaled",
    None,
    "The row sum is not rescaled when the running max moves.",
    [(_SUM, "l = l + tl.sum(p, 1)")],
    witness=case(1, 32, values=("positive", "rising", "normal"), config=_TILES_OF_16),
    twin="row-sum-keeps-old-max",
)

edit(
    "G",
    "rescale-after-add",
    None,
    "The row sum is rescaled after the tile is added, its own tile with it.",
    [(_SUM, "l = (l + tl.sum(p, 1)) * tl.where(l == 0.0, 1.0, alpha)")],
    witness=case(1, 32, values=("positive", "rising", "normal"), config=_TILES_OF_16),
)

edit(
    "G",
    "lazy-rescale-saturates",
    "https://github.com/Dao-AILab/flash-attention/pull/2713",
    "The running max may lag by 2^20, and P saturates in its cast while the row sum does not.",
    [
        (_MAX, _MAX + "\n        m_new = tl.where(m_new - m < 20.0, m, m_new)"),
        ("p = p.to(io_dtype)", "p = tl.minimum(p, 65504.0).to(io_dtype)"),
    ],
    witness=case(4, 64, dtype="fp16", values=("positive", "rising", "normal"), scale=0.2, config=_TILES_OF_16),
    twin="lazy-rescale-cut",
)

edit(
    "G",
    "no-max",
    None,
    "No max is subtracted at all: scores above 88 overflow, rows below -103 vanish.",
    [(_MAX, "m_new = tl.zeros_like(m)")],
    witness=case(1, 1, 64, values=("positive", "negative", "normal"), scale=1.0),
    twin="no-max-subtracted",
)

edit(
    "G",
    "max-starts-at-zero",
    None,
    "The running max starts at 0 and not at -inf: a row whose scores are all far below 0 vanishes.",
    [('m = tl.full([BLOCK_M], -float("inf"), tl.float32)', "m = tl.full([BLOCK_M], 0.0, tl.float32)")],
    witness=case(1, 1, 64, values=("positive", "negative", "normal"), scale=1.0),
    twin="max-from-zero",
)

edit(
    "G",
    "max-shared-by-tile",
    None,
    "The rows of a query tile share one max, so a row far below its neighbours vanishes.",
    [(_MAX, "m_new = tl.maximum(m, tl.zeros_like(m) + tl.max(tl.max(scores, 1), 0) * scale_log2)")],
    witness=case(2, 2, values=("falling", "constant", "normal"), scale=1.0),
    twin="max-of-all-rows",
)

edit(
    "R",
    "one-config-not-rescaled",
    "https://github.com/triton-lang/triton/pull/4808",
    "The configurations with BLOCK_N = 32 do not rescale the accumulator.",
    [("acc = acc * alpha[:, None]", "if BLOCK_N != 32:\n            acc = acc * alpha[:, None]")],
    witness=case(1, 64, config="64x32x4x2"),
)

edit(
    "H",
    "log2e-missing",
    None,
    "Scores go to exp2 without log2(e).",
    [("scale_log2 = float(np.float32(abs(scale) * math.log2(math.e)))", "scale_log2 = float(np.float32(abs(scale)))")],
    file="portable/bind.py",
    witness=case(1, 2),
)

edit(
    "H",
    "scale-zero-is-default",
    None,
    "A scale of 0 counts as none given.",
    [("if scale is None:", "if not scale:")],
    file="call/arguments.py",
    witness=case(1, 2, scale=0.0),
    twin="scale-or-default",
)

edit(
    "H",
    "negative-scale-sign",
    "https://github.com/pytorch/pytorch/pull/105202",
    "The sign of the scale is lost.",
    [("return (1 if scale > 0 else -1), scale_log2", "return 1, scale_log2")],
    file="portable/bind.py",
    witness=case(1, 2, scale=-1.0),
)

edit(
    "H",
    "negative-scale-takes-min",
    "https://github.com/pytorch/pytorch/pull/105202",
    "The max is taken before a negative scale, which makes it the smallest score: exp2 overflows.",
    [
        (
            "scale_log2 = float(np.float32(abs(scale) * math.log2(math.e)))",
            "scale_log2 = float(np.float32(scale * math.log2(math.e)))",
        ),
        ("return (1 if scale > 0 else -1), scale_log2", "return 1, scale_log2"),
    ],
    file="portable/bind.py",
    witness=case(1, 1, scale=-1.0),
)

edit(
    "O",
    "lse-base-mismatch",
    "https://github.com/vllm-project/vllm/pull/47079",
    "LSE is in base 2.",
    [(_LSE, "lse = m + tl.math.log2(l)")],
    witness=case(1, 2, return_lse=True),
    expects=LSE,
    twin="lse-in-base-2",
)

edit(
    "O",
    "lse-plus-inf-empty",
    "https://github.com/Dao-AILab/flash-attention/pull/978",
    "A row that sees no key has LSE = +inf.",
    [(_LSE, _LSE.replace("(m +", '(tl.where(m == -float("inf"), float("inf"), m) +'))],
    witness=case(1, 1, seqlens_k=(0,), return_lse=True),
    expects=LSE,
    twin="lse-inf-where-empty",
)

edit(
    "O",
    "lse-max-from-zero",
    None,
    "The max goes into LSE as if it had started at 0.",
    [(_LSE, "lse = (tl.maximum(m, 0.0) + tl.math.log2(l)) * 0.6931471805599453")],
    witness=case(1, 1, values=("positive", "negative", "normal"), return_lse=True),
    expects=LSE,
)

edit(
    "O",
    "lse-sign-of-scale",
    None,
    "The max goes into LSE with the sign of the scale, which q holds already.",
    [(_LSE, "lse = (m * (SIGN if SIGN < 0 else 1) + tl.math.log2(l)) * 0.6931471805599453")],
    witness=case(1, 1, scale=-1.0, return_lse=True),
    expects=LSE,
)
