"""What the kernel accepts: every refusal is one sentence that names the argument, what came and what is legal.

A call is first written down as a `Call`: plain values, no tensor. All checks, and all that a plan is made of, use
only that, so a plan cached under the call's values cannot be out of date.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from .problem import BackwardProblem, Needs, Problem

MAX_HEAD_DIM = 256
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ALIGNMENTS = ("upper_left", "lower_right")
_SEQLEN_DTYPES = (torch.int32, torch.int64)
_LARGEST_FP32 = torch.finfo(torch.float32).max


class Operand(NamedTuple):
    """What a call says about one of its tensors."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    layout: torch.layout
    aligned: bool


class Lengths(NamedTuple):
    """What a call says about seqlens_k, but for its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Call(NamedTuple):
    """A call, unchecked. It has the classes of causal and scale too, since True == 1 and 1 == 1.0."""

    q: Operand
    k: Operand
    v: Operand
    seqlens_k: Lengths | None
    causal: Any
    causal_class: type
    scale: Any
    scale_class: type
    config: Any


class Asked(NamedTuple):
    """The arguments of `kernel.flash_attention` that its passes take, in order; a new keyword is a field here."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    causal: bool | str = False
    seqlens_k: torch.Tensor | None = None
    scale: float | None = None
    config: object = None
    deterministic: bool = False


class Saved(NamedTuple):
    """What a backward pass takes besides what was asked: gradients of the outputs or None, the outputs, its needs."""

    dO: torch.Tensor
    dLSE: torch.Tensor | None
    O: torch.Tensor
    LSE: torch.Tensor
    needs: Needs


def as_values(asked: Asked) -> tuple[Any, ...]:
    """The fields of a `Call`, as plain tuples since every call of the kernel pays for them.

    TypeError or ValueError in one sentence where q, k, v or seqlens_k is no strided tensor.
    """
    q, k, v, causal, seqlens_k, scale, config, _ = asked
    try:
        return (
            (q.shape, q.stride(), q.dtype, q.device, q.layout, q.data_ptr() % 16 == 0),
            (k.shape, k.stride(), k.dtype, k.device, k.layout, k.data_ptr() % 16 == 0),
            (v.shape, v.stride(), v.dtype, v.device, v.layout, v.data_ptr() % 16 == 0),
            None if seqlens_k is None else (seqlens_k.shape, seqlens_k.stride(), seqlens_k.dtype, seqlens_k.device),
            causal, causal.__class__, scale, scale.__class__, config,
        )  # fmt: skip
    except (AttributeError, TypeError, RuntimeError) as fault:
        error = fault
    _check_types(q, k, v, seqlens_k)
    raise error


def as_backward_values(asked: Asked, saved: Saved) -> tuple[Any, ...]:
    """The values of the forward call, and those of O, LSE and their gradients.

    The last one says whether every run must give the same bits, for the call or for all of torch. ValueError in one
    sentence for a tensor that is not strided.
    """
    forward = as_values(asked)
    dO, dLSE, O, LSE, needs = saved
    for name, x in (("dO", dO), ("O", O), ("LSE", LSE), ("dLSE", dLSE)):
        if x is not None and x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense strided tensor, got the layout {x.layout}")
    return (
        forward,
        (
            (dO.shape, dO.stride(), dO.dtype, dO.device, dO.layout, dO.data_ptr() % 16 == 0),
            None if dLSE is None else (dLSE.shape, dLSE.stride(), dLSE.dtype, dLSE.device, dLSE.layout, True),
            (O.shape, O.stride(), O.dtype, O.device, O.layout, O.data_ptr() % 16 == 0),
            (LSE.shape, (), LSE.dtype, LSE.device, LSE.layout, True),
            needs,
            asked.deterministic or torch.are_deterministic_algorithms_enabled(),
        ),
    )


def check_arguments(asked: Asked) -> Problem:
    """Check a forward call, the values of seqlens_k too, and return its `Problem`; ValueError or TypeError."""
    problem = check(as_call(as_values(asked)))
    check_lengths(asked.seqlens_k, problem.Nk)
    return problem


def as_call(values: tuple[Any, ...]) -> Call:
    """What `as_values` gives, with names."""
    *operands, lengths = values[:4]
    q, k, v = (Operand(*operand) for operand in operands)
    return Call(q, k, v, lengths and Lengths(*lengths), *values[4:])


def check(call: Call) -> Problem:
    """The problem of a call; ValueError or TypeError in one sentence. The values of seqlens_k are not looked at."""
    _check_operands(call)
    _check_shapes(call)
    B, Hq, Nq, d = call.q.shape
    Hk, Nk = call.k.shape[1:3]
    if call.seqlens_k is not None:
        _check_lengths(call.seqlens_k, B, call.q.device)
    strides = (_used_strides(call.q), _used_strides(call.k), _used_strides(call.v))
    return Problem(
        *(B, Hq, Hk, Nq, Nk, d, alignment_of(call.causal), _scale(call.scale, d), call.q.dtype, call.q.device),
        strides=strides,
        aligned=(call.q.aligned, call.k.aligned, call.v.aligned),
        seqlens_dtype=call.seqlens_k.dtype if call.seqlens_k else None,
        seqlens_stride=call.seqlens_k.strides[0] if call.seqlens_k else 0,
    )


def check_backward(values: tuple[Any, ...]) -> BackwardProblem:
    """The problem of a backward call; ValueError or TypeError in one sentence."""
    forward = check(as_call(values[0]))
    *operands, needs, deterministic = values[1]
    dO, dLSE, O, LSE = (operand and Operand(*operand) for operand in operands)
    shape = (forward.B, forward.Hq, forward.Nq, forward.d)
    for name, x in (("dO", dO), ("O", O)):
        _check_saved(name, x, forward, shape, forward.dtype)
    for name, x in (("LSE", LSE), ("dLSE", dLSE)):
        if x is not None:
            _check_saved(name, x, forward, shape[:3], torch.float32)
    return BackwardProblem(
        *(forward, needs, dO.aligned, _used_strides(dO), O.aligned, _used_strides(O)),
        *(_used_strides(dLSE) if dLSE else None, deterministic),
    )


def check_lengths(seqlens_k: torch.Tensor | None, Nk: int) -> None:
    """ValueError for a length out of range, on a CPU; the tensor must have been checked already.

    Reading a CUDA tensor here would stall the stream, so there the kernel clamps each length to [0, Nk] instead.
    """
    if seqlens_k is None or seqlens_k.device.type != "cpu" or not len(seqlens_k):
        return
    low, high = (int(x) for x in torch.aminmax(seqlens_k))
    if low < 0 or high > Nk:
        raise ValueError(f"seqlens_k must lie in 0..{Nk} (k's length), got values from {low} to {high}")


def _check_types(q: object, k: object, v: object, seqlens_k: object) -> None:
    for name, x in (("q", q), ("k", k), ("v", v), ("seqlens_k", seqlens_k)):
        if x is None and name == "seqlens_k":
            continue
        if not isinstance(x, torch.Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor{' or None' if name == 'seqlens_k' else ''}, got {type(x).__name__}"
            )
        if x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense strided tensor, got the layout {x.layout}")


def _check_operands(call: Call) -> None:
    q = call.q
    for name, x in (("q", call.q), ("k", call.k), ("v", call.v)):
        if x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense strided tensor, got the layout {x.layout}")
        if len(x.shape) != 4:
            raise ValueError(
                f"{name} must have 4 dimensions (B, H, N, d), got {len(x.shape)} of shape {tuple(x.shape)}"
            )
        if x.dtype not in DTYPES.values():
            raise TypeError(f"{name} must be float16, bfloat16 or float32, got {_short(x.dtype)}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name} must have q's dtype {_short(q.dtype)}, got {_short(x.dtype)}")
        if x.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, got {x.device}")


def _check_shapes(call: Call) -> None:
    q, k, v = call.q.shape, call.k.shape, call.v.shape
    Hq, d, Hk = q[1], q[3], k[1]
    if v != k:
        raise ValueError(f"v must have k's shape {tuple(k)}, got {tuple(v)}")
    if k[0] != q[0]:
        raise ValueError(f"k must have q's batch size {q[0]}, got {k[0]}")
    if k[3] != d:
        raise ValueError(f"k must have q's head dim {d}, got {k[3]}")
    if not 1 <= d <= MAX_HEAD_DIM:
        raise ValueError(f"q must have a head dim from 1 to {MAX_HEAD_DIM}, got {d}")
    if (Hq % Hk if Hk else Hq) != 0:
        raise ValueError(f"q must have a multiple of k's {Hk} heads, got {Hq}")


def _check_lengths(lengths: Lengths, B: int, device: torch.device) -> None:
    if lengths.dtype not in _SEQLEN_DTYPES:
        raise TypeError(f"seqlens_k must be int32 or int64, got {_short(lengths.dtype)}")
    if tuple(lengths.shape) != (B,):
        raise ValueError(f"seqlens_k must have shape ({B},), one length per batch, got {tuple(lengths.shape)}")
    if lengths.device != device:
        raise ValueError(f"seqlens_k must be on q's device {device}, got {lengths.device}")


def _check_saved(name: str, x: Operand, forward: Problem, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
    if x.dtype != dtype:
        raise TypeError(f"{name} must be {_short(dtype)}, got {_short(x.dtype)}")
    if x.device != forward.device:
        raise ValueError(f"{name} must be on q's device {forward.device}, got {x.device}")


def _used_strides(x: Operand) -> tuple[int, ...]:
    """Strides in elements, 0 where the dimension has one entry: that stride is never used and may be anything."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.strides, strict=True))


def alignment_of(causal: bool | str) -> str | None:
    """The alignment of the diagonal that `causal` asks for, None without one; TypeError or ValueError."""
    if isinstance(causal, bool):
        return "upper_left" if causal else None
    if not isinstance(causal, str):
        raise TypeError(f'causal must be a bool, "upper_left" or "lower_right", got {type(causal).__name__}')
    if causal not in ALIGNMENTS:
        raise ValueError(f'causal must be False, True, "upper_left" or "lower_right", got {causal!r}')
    return causal


def _scale(scale: float | None, d: int) -> float:
    if scale is None:
        return float(d**-0.5)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"scale must be a float or None, got {type(scale).__name__}")
    # The kernel folds log2(e) into the scale, in fp32; not (x <= y) also catches NaN.
    if not abs(scale) * math.log2(math.e) <= _LARGEST_FP32:
        raise ValueError(f"scale must be finite in float32, got {scale}")
    return float(scale)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
