"""Edits that keep something from one call to the next."""

from __future__ import annotations

from harness.recall.faults.registry import HISTORY, NUMBERS, edit
from harness.recall.faults.witness import case

_O = "o = torch.empty_like(q, memory_format=torch.contiguous_format)"
_IMPORTS = "from __future__ import annotations\n"
_KEEP = (_IMPORTS, _IMPORTS + "\n_kept = {}\n")

edit(
    "R",
    "autotune-key-by-index",
    "https://github.com/triton-lang/triton/pull/4808",
    "What was compiled for a shape is kept without `causal` in its key.",
    [
        _KEEP,
        (
            '"CAUSAL": problem.causal,',
            '"CAUSAL": _kept.setdefault((problem.Nq, problem.Nk, problem.d), problem.causal),',
        ),
    ],
    file="portable/bind.py",
    witness=case(2, 2, history=("other_causal",)),
    expects=NUMBERS | HISTORY,
    twin="key-without-causal",
)

edit(
    "R",
    "scale-kept-by-head-dim",
    None,
    "The split scale is kept by head dimension, whatever scale comes later.",
    [
        _KEEP,
        (
            "sign, scale_log2 = split_scale(problem.scale)",
            "sign, scale_log2 = _kept.setdefault(problem.d, split_scale(problem.scale))",
        ),
    ],
    file="portable/forward.py",
    witness=case(1, 2, history=("other_scale",)),
    expects=NUMBERS | HISTORY,
    twin="key-without-scale",
)

edit(
    "R",
    "strides-kept-by-shape",
    "https://github.com/pytorch/pytorch/issues/146377",
    "Strides are those of the first call with the same shapes.",
    [
        _KEEP,
        (
            "strides = (_used_strides(call.q), _used_strides(call.k), _used_strides(call.v))",
            "strides = (_used_strides(call.q), _used_strides(call.k), _used_strides(call.v))\n"
            "    strides = _kept.setdefault((call.q.shape, call.k.shape), strides)",
        ),
    ],
    file="call/arguments.py",
    witness=case(2, 2, Hq=2, Hk=2, history=("other_layout",)),
    expects=NUMBERS | HISTORY,
    slack=True,
)

edit(
    "R",
    "output-buffer-kept",
    None,
    "O is a buffer that the next call of the same shape and dtype writes again.",
    [
        _KEEP,
        (
            _O,
            "o = _kept.setdefault((q.shape, q.dtype), torch.empty_like(q, memory_format=torch.contiguous_format))",
        ),
    ],
    file="eager.py",
    witness=case(1, 1),
    expects=frozenset({"output_aliased"}),
    relation="first_output_kept",
    twin="output-reused",
)
