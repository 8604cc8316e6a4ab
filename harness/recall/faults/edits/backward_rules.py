"""Edits of the backward kernels: δ, scales, sums, casts, and what is kept."""

from __future__ import annotations

from harness.recall.faults.registry import GRADIENT, HISTORY, edit
from harness.recall.faults.witness import gradients

_FILE = "portable/device/backward.py"
_DELTA = "delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)"
_DV = 'dv = tl.dot(p.to(io_dtype), do, dv, input_precision="ieee")'
_IMPORTS = "from __future__ import annotations\n"

edit(
    "G",
    "kernel-delta-missing",
    None,
    "δ is dLSE alone.",
    [(_DELTA, "delta = tl.sum(o.to(tl.float32) * 0.0, 1)")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2),
    twin="delta-missing",
)

edit(
    "O",
    "kernel-dlse-added-to-delta",
    None,
    "The gradient of LSE has the wrong sign.",
    [("delta -= tl.load(dlse_rows", "delta += tl.load(dlse_rows")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 1, dLSE="contiguous"),
    twin="dlse-subtracted",
)

edit(
    "O",
    "kernel-dlse-ignored",
    None,
    "The gradient of LSE is left out.",
    [("problem.dLSE_strides is not None, forward.d != width", "False, forward.d != width")],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(1, 1, dLSE="contiguous"),
    twin="dlse-ignored",
)

edit(
    "H",
    "kernel-scale-missing-in-dq",
    None,
    "dQ = dS·K, without the scale.",
    [("dq = dq * scale\n", "dq = dq + 0.0\n")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2),
    twin="scale-missing-in-dq",
)

edit(
    "H",
    "kernel-dk-at-scale-log2",
    None,
    "dK has the scale of the scores in base 2, log2(e) times too much.",
    [("dk * scale, 0.0)", "dk * scale_log2, 0.0)")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2),
)

edit(
    "H",
    "kernel-bwd-scale-sign-lost",
    "https://github.com/pytorch/pytorch/pull/105202",
    "dQ and dK are scaled by |scale|.",
    [("scale = float(np.float32(forward.scale))", "scale = abs(float(np.float32(forward.scale)))")],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(1, 2, scale=-1.0),
    twin="scale-sign-lost-in-dk",
)

edit(
    "D",
    "kernel-bwd-scale-from-padded-d",
    "https://github.com/tile-ai/tilelang-ascend/issues/1669",
    "The backward pass takes the default scale from the head dimension padded to a power of two.",
    [
        (
            "    sign, scale_log2 = split_scale(forward.scale)\n    scale = float(np.float32(forward.scale))",
            "    padded = forward.scale if forward.scale != forward.d**-0.5 else block_d(forward.d) ** -0.5\n"
            "    sign, scale_log2 = split_scale(padded)\n    scale = float(np.float32(padded))",
        )
    ],
    file="portable/backward.py",
    expects=GRADIENT,
    witness=gradients(1, 2, 17),
    twin="bwd-scale-from-padded-d",
)

edit(
    "N",
    "kernel-gqa-dkv-not-summed",
    "https://github.com/marin-community/levanter/pull/449",
    "The sums of dK and dV start anew with every query head of a group.",
    [
        (
            "        g = step // count\n",
            "        g = step // count\n"
            "        kept = tl.where((g > 0) & (step == g * count), 0.0, 1.0)\n"
            "        dk = dk * kept\n"
            "        dv = dv * kept\n",
        )
    ],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=2),
    twin="gqa-dkv-not-summed",
)

edit(
    "S",
    "kernel-dv-sums-low",
    None,
    "dV is summed over tiles of queries in the inputs' dtype.",
    [(_DV, f"{_DV}.to(io_dtype).to(tl.float32)")],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(512, 1, dtype="fp16", values=("constant", "constant", "positive"), dO_values="positive"),
    twin="dv-sums-low",
)

edit(
    "S",
    "kernel-bwd-p-through-bf16",
    None,
    "P is rounded to bf16 where it meets dO, whatever the inputs.",
    [(_DV, _DV.replace("p.to(io_dtype)", "p.to(tl.bfloat16).to(io_dtype)"))],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2),
    twin="bwd-p-cut",
)

edit(
    "S",
    "kernel-o-rounded-twice",
    None,
    "O is rounded to bf16 for δ, whatever the inputs.",
    [(_DELTA, _DELTA.replace("o.to(tl.float32)", "o.to(tl.bfloat16).to(tl.float32)", 1))],
    file=_FILE,
    expects=GRADIENT,
    witness=gradients(2, 2),
    twin="o-rounded-twice",
)

edit(
    "W",
    "kernel-needs-in-reverse",
    None,
    "Which gradients are wanted is read from the last input to the first.",
    [("needs = tuple(ctx.needs_input_grad[:3])", "needs = tuple(ctx.needs_input_grad[2::-1])")],
    file="eager.py",
    expects=GRADIENT,
    witness=gradients(1, 2, needs=("v",)),
)

edit(
    "R",
    "kernel-gradients-kept",
    None,
    "dQ, dK and dV are buffers that the next backward pass of the same shapes writes again.",
    [
        (_IMPORTS, _IMPORTS + "\n_kept = {}\n"),
        (
            "torch.empty(x.shape, dtype=x.dtype, device=x.device) if need else None",
            "_kept.setdefault((n, x.shape, x.dtype), torch.empty(x.shape, dtype=x.dtype, device=x.device))"
            " if need else None",
        ),
        (
            "for x, need in zip((q, k, v), needs, strict=True)",
            "for n, (x, need) in enumerate(zip((q, k, v), needs, strict=True))",
        ),
    ],
    file="eager.py",
    expects=frozenset({"output_aliased"}),
    relation="first_output_kept",
    witness=gradients(1, 2),
    twin="dk-buffer-reused",
)

edit(
    "R",
    "kernel-bwd-scale-kept-by-head-dim",
    None,
    "The scale of the backward pass is kept by head dimension.",
    [
        (_IMPORTS, _IMPORTS + "\n_kept = {}\n"),
        (
            "scale = float(np.float32(forward.scale))",
            "scale = _kept.setdefault(forward.d, float(np.float32(forward.scale)))",
        ),
    ],
    file="portable/backward.py",
    expects=GRADIENT | HISTORY,
    witness=gradients(1, 2, history=("other_scale",)),
    twin="bwd-key-without-scale",
)
