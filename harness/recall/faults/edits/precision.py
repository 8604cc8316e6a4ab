"""Edits that lose precision or range."""

from __future__ import annotations

from harness.recall.faults.registry import edit
from harness.recall.faults.witness import case

_SCORES = 'scores = tl.dot(q, tl.trans(k), input_precision="ieee")'
_RESCALE = "acc = acc * alpha[:, None]"
_EXP = "p = tl.math.exp2(scores * scale_log2 - m_finite[:, None])"
_SUM = "l = l * alpha + tl.sum(p, 1)"
_NORMALISE = "acc = acc * (1.0 / l)[:, None]"
_AS_BF16 = "(({0}.to(tl.uint32, bitcast=True) + 0x8000) & 0xFFFF0000).to(tl.float32, bitcast=True)"

edit(
    "I",
    "fp16-score-overflow",
    "https://github.com/microsoft/onnxruntime/pull/28198",
    "fp16 inputs have fp16 scores: products above 65504 overflow before they are scaled.",
    [
        (
            _SCORES,
            _SCORES + "\n        if io_dtype == tl.float16:\n            scores = scores.to(tl.float16).to(tl.float32)",
        )
    ],
    witness=case(4, 8, 64, dtype="fp16", values=("large", "large", "normal")),
    twin="raw-scores-in-fp16",
)

edit(
    "S",
    "scores-in-bf16",
    None,
    "Scores are rounded to bf16 before the softmax.",
    [(_SCORES, _SCORES + "\n        scores = " + _AS_BF16.format("scores"))],
    witness=case(1, 2),
)

edit(
    "S",
    "tf32-for-fp32",
    "https://github.com/evintunador/triton_docs_tutorials/issues/6",
    "fp32 keys are cut to the 10 bits of TF32 on their way into the product.",
    [
        (
            _SCORES,
            "if k.dtype == tl.float32:\n"
            "            k = (k.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)\n        "
            + _SCORES,
        )
    ],
    witness=case(1, 2),
    twin="tf32-products",
)

edit(
    "S",
    "accumulator-in-fp16",
    None,
    "The accumulator is kept in fp16 between tiles.",
    [(_RESCALE, "acc = (acc * alpha[:, None]).to(tl.float16).to(tl.float32)")],
    witness=case(1, 32, config="16x16x4x1"),
)

edit(
    "S",
    "p-cut-to-bf16",
    None,
    "P is cut, not rounded, to the 8 bits of bf16 where the inputs are fp16 or fp32.",
    [
        (
            "p = p.to(io_dtype)",
            "p = (p.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True).to(io_dtype)",
        )
    ],
    witness=case(1, 2),
    twin="p-cut",
)

edit(
    "S",
    "coarse-exp2",
    None,
    "exp2 is a polynomial of degree 3, right to four digits.",
    [
        (
            _EXP,
            "x = tl.maximum(scores * scale_log2 - m_finite[:, None], -126.0)\n"
            "        f = x - tl.floor(x)\n"
            "        p = tl.math.exp2(tl.floor(x)) * (1.0 + f * (0.6951786 + f * (0.2276145 + f * 0.0772069)))\n"
            '        p = tl.where(scores == -float("inf"), 0.0, p)',
        )
    ],
    witness=case(1, 2),
    twin="exp-by-table",
)

edit(
    "S",
    "row-sum-in-fp16",
    None,
    "For fp16 and bf16 inputs the running row sum is kept in fp16.",
    [
        (
            _SUM,
            _SUM + "\n        if io_dtype != tl.float32:\n            l = l.to(tl.float16).to(tl.float32)",
        )
    ],
    witness=case(1, 3, dtype="fp16", return_lse=True),
    twin="row-sum-low",
)

edit(
    "S",
    "output-through-bf16",
    None,
    "O passes through bf16 on its way to fp16 or fp32.",
    [(_NORMALISE, _NORMALISE + "\n    acc = " + _AS_BF16.format("acc"))],
    witness=case(1, 1),
    twin="output-rounded-twice",
)

edit(
    "S",
    "reciprocal-in-fp16",
    None,
    "The row sum's reciprocal is rounded to fp16, and is 0 for a sum past 2^25.",
    [(_NORMALISE, "acc = acc * (1.0 / l).to(tl.float16).to(tl.float32)[:, None]")],
    witness=case(1, 3),
)

edit(
    "S",
    "pv-in-fp16",
    None,
    "The product of a tile's P and V leaves in fp16: it is coarse, and large values overflow.",
    [
        (
            'acc = tl.dot(p, v, acc, input_precision="ieee")',
            'acc += tl.dot(p, v, input_precision="ieee").to(tl.float16).to(tl.float32)',
        )
    ],
    witness=case(1, 2),
)

edit(
    "T",
    "chained-dot-small-block",
    "https://github.com/triton-lang/triton/issues/1162",
    "With 16 x 16 tiles the fragment of P between the two products is transposed (a stand-in for a miscompile).",
    [
        (
            'acc = tl.dot(p, v, acc, input_precision="ieee")',
            'if BLOCK_N == 16:\n            p = tl.trans(p)\n        acc = tl.dot(p, v, acc, input_precision="ieee")',
        )
    ],
    witness=case(2, 2, config="16x16x4x1"),
    twin="chained-dot-fragment",
)
