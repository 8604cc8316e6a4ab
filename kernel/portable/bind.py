"""What the portable kernels are launched with besides tensors: constexprs, scalars and the grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import triton

from ..call.launch import INTERPRETED
from ..call.problem import Problem
from ..tiles.config import Where, block_d, device_arch

# Sections of heads keep their keys and values within this much of the L2 cache (an H100 has 50 MB, an RTX 4070 36 MB).
_L2_BYTES = 32 << 20
# In-tile offsets of the tallest tile must stay below 2^31 for 32-bit arithmetic.
_TALLEST_TILE = 256


def where_of(problem: Problem) -> Where:
    """What decides which tiles fit a problem."""
    return Where(block_d(problem.d), problem.dtype, 0 if INTERPRETED else device_arch(problem.device))


def constexprs_of(problem: Problem, sign: int) -> dict[str, Any]:
    """What `_forward` and `_decode` know of a problem when they are compiled, in the order of their signatures.

    sign: that of the scale.
    """
    width = block_d(problem.d)
    return {
        "BLOCK_D": width,
        "CAUSAL": problem.causal,
        "HAS_SEQLENS": problem.seqlens_dtype is not None,
        "PAD_D": problem.d != width,
        "FAST": is_fast(problem.dtype, problem.d, problem.aligned, problem.strides),
        "WIDE": is_wide(problem.strides, width),
        "SIGN": sign,
        "WIDEN": is_widened(problem),
    }


def is_widened(problem: Problem) -> bool:
    """Whether kernels compute in fp32 on values of bf16, which the interpreter gets wrong otherwise."""
    return INTERPRETED and problem.dtype == torch.bfloat16


def grid(heads: int, Nq: int, BLOCK_M: int) -> tuple[int]:
    """One dimension: only the first one of a CUDA grid reaches past 65,535."""
    return (heads * triton.cdiv(Nq, BLOCK_M),)


def is_fast(dtype: torch.dtype, d: int, aligned: tuple[bool, ...], strides: tuple[tuple[int, ...], ...]) -> bool:
    """Whether every row of every tensor is contiguous, 16-byte aligned and a multiple of 16 bytes long."""
    unit = 16 // dtype.itemsize
    return (
        d % unit == 0
        and all(aligned)
        and all(s[3] == 1 and all(stride % unit == 0 for stride in s[:3]) for s in strides)
    )


def is_wide(strides: tuple[tuple[int, ...], ...], BLOCK_D: int) -> bool:
    """Whether an offset inside a tile may reach 2^31."""
    return any(_TALLEST_TILE * s[2] + BLOCK_D * s[3] >= 2**31 for s in strides)


def split_scale(scale: float) -> tuple[int, float]:
    """Return the sign of the scale and |scale| * log2(e), or 0 and 1: the kernel needs the latter positive."""
    scale_log2 = float(np.float32(abs(scale) * math.log2(math.e)))
    if scale_log2 == 0.0:
        return 0, 1.0
    return (1 if scale > 0 else -1), scale_log2


def fitting_the_cache(bytes_of_one: int) -> int:
    """How many of something fit the L2 cache: a power of two, at least 1."""
    return 1 << (max(1, _L2_BYTES // max(1, bytes_of_one)).bit_length() - 1)
