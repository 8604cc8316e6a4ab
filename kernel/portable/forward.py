"""The portable path: the Triton kernel of `flash_attn_triton.py`, for every call, device and layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import triton

from ..call.arguments import Problem
from ..call.launch import INTERPRETED, Launch
from ..call.plan import Plan
from ..tiles.config import INTERPRETER_TILE, TileConfig, block_d, check_pinned, device_arch, fitting_space
from ..tiles.defaults import default_tile
from .device.forward import _forward

# Sections of heads keep their keys and values within this much of the L2 cache (an H100 has 50 MB, an RTX 4070 36 MB).
_L2_BYTES = 32 << 20
# In-tile offsets of the tallest tile must stay below 2^31 for 32-bit arithmetic.
_TALLEST_TILE = 256


class Portable:
    """A `plan.Path` that takes every problem; its tiles read "64x64x4x3"."""

    name = "portable"

    def refusal(self, problem: Problem) -> str | None:
        """None: nothing is refused."""
        return None

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """The tiles that fit the device, or the interpreter's one."""
        if INTERPRETED:
            return (str(INTERPRETER_TILE),)
        where = (block_d(problem.d), problem.dtype, device_arch(problem.device))
        return tuple(map(str, dict.fromkeys((default_tile(*where, problem.causal), *fitting_space(*where)))))

    def plan(self, problem: Problem, config: str | None = None) -> Plan:
        """The plan at a tile or at the device's default one."""
        tile = usable_tile(problem, config and TileConfig.parse(config))
        return Plan(self.name, str(tile), launch_of(problem, tile))


def usable_tile(problem: Problem, tile: TileConfig | None) -> TileConfig:
    """The pinned tile, if it can run, or the default one; NotImplementedError where it cannot."""
    if INTERPRETED:
        return tile or INTERPRETER_TILE
    where = (block_d(problem.d), problem.dtype, device_arch(problem.device))
    if tile is None:
        return default_tile(*where, problem.causal)
    check_pinned(tile, *where)
    return tile


def launch_of(problem: Problem, tile: TileConfig) -> Launch:
    """The launch of the kernel on q, k, v, O, LSE and seqlens_k."""
    sign, scale_log2 = split_scale(problem.scale)
    scalars = (
        *(stride for of_tensor in problem.strides for stride in of_tensor),
        *(problem.seqlens_stride, problem.heads, problem.Hq, problem.group, problem.Nq, problem.Nk, problem.d),
        *(int(problem.alignment == "lower_right"), section(problem), scale_log2),
    )
    arguments = (*scalars, *constexprs_of(problem, sign).values(), *tile.blocks().values())
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    return Launch(_forward, grid(problem.heads, problem.Nq, tile.BLOCK_M), arguments, options, problem.device)


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
        "WIDEN": INTERPRETED and problem.dtype == torch.bfloat16,
    }


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


def section(problem: Problem) -> int:
    """Heads that run side by side: those of a KV head; for causal, longest first, as many as fit the L2 cache.

    The programs of one group's heads at the same query rows are neighbours, so K and V are read from memory once for
    the group and from the L2 cache otherwise.
    """
    if not problem.causal:
        return problem.group
    kv_bytes = max(1, 2 * problem.Nk * problem.d * problem.dtype.itemsize)
    fitting = max(1, _L2_BYTES // kv_bytes)
    return min(problem.heads, problem.group * (1 << (fitting.bit_length() - 1)))
