"""The portable backward path: the kernels of `flash_attn_backward_triton.py`, for every call, device and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .arguments import Problem
from .backward_arguments import BackwardProblem
from .backward_tiles import BackwardTiles, default_tiles, fits, fitting_tiles
from .flash_attn_backward_triton import _backward_kv, _backward_q, _delta
from .flash_attn_triton import INTERPRETED
from .launch import Launch
from .plan import Plan
from .portable import _L2_BYTES, arguments_of, constexprs_of, grid, is_fast, is_wide, section, split_scale
from .tiles import TileConfig, block_d, device_arch

_DELTA_ELEMENTS = 4096
_DELTA_WARPS = 4


class PortableBackward:
    """A `plan.BackwardPath` that takes every problem; its tiles read "64x128x8x2+128x64x8x2"."""

    name = "portable"

    def refusal(self, problem: BackwardProblem) -> str | None:
        """None: nothing is refused."""
        return None

    def configs(self, problem: BackwardProblem) -> tuple[str, ...]:
        """The tiles that fit the device, the shipped ones first, or the interpreter's."""
        return tuple(map(str, dict.fromkeys((default_tiles(*_where(problem)), *fitting_tiles(*_where(problem))))))

    def plan(self, problem: BackwardProblem, config: str | None = None) -> Plan:
        """The plan at a pair of tiles or at the device's default one."""
        tiles = usable_tiles(problem, config and BackwardTiles.parse(config))
        return Plan(self.name, str(tiles), launch_of(problem, tiles))

    def like(self, problem: BackwardProblem, tile: TileConfig) -> str | None:
        """The config of both kernels at the tile of a forward pass, in one stage, or None where that does not fit."""
        tiles = BackwardTiles.of(tile)
        return str(tiles) if INTERPRETED or fits(tiles, *_where(problem)[:3]) else None


def usable_tiles(problem: BackwardProblem, tiles: BackwardTiles | None) -> BackwardTiles:
    """The pinned tiles, if they can run, or the default ones; NotImplementedError where they cannot."""
    BLOCK_D, dtype, arch, causal = _where(problem)
    if tiles is None:
        return default_tiles(BLOCK_D, dtype, arch, causal)
    if not INTERPRETED and not fits(tiles, BLOCK_D, dtype, arch):
        where = f"d up to {BLOCK_D} in {str(dtype).removeprefix('torch.')} on sm_{arch}"
        raise NotImplementedError(f"config /{tiles} needs more shared memory or registers than there are for {where}")
    return tiles


def _where(problem: BackwardProblem) -> tuple[int, torch.dtype, int, bool]:
    """The head-dim tile, dtype, architecture (0 for the interpreter) and whether there is a diagonal."""
    forward = problem.forward
    return (
        *(block_d(forward.d), forward.dtype),
        *(0 if INTERPRETED else device_arch(forward.device), forward.causal),
    )


def launch_of(problem: BackwardProblem, tiles: BackwardTiles, count: bool = False) -> Callable[..., None]:
    """What runs the kernels on q, k, v, O, LSE, dO, dLSE, seqlens_k, dQ, dK and dV; None for what there is not.

    With `count` two more take the skipped tiles: query tiles of each key tile, and key tiles of each query tile.
    """
    need_q, need_k, need_v = problem.needs
    forward = problem.forward
    kv = _kv_launch(problem, tiles.kv, count) if (need_k or need_v) and forward.B * forward.Hk * forward.Nk else None
    to_q = _q_launch(problem, tiles.q, count) if need_q and forward.heads * forward.Nq else None
    delta_of = delta_launch(problem, forward.Nq) if (need_q or need_k) and forward.heads * forward.Nq else None

    def launch(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        o: torch.Tensor,
        lse: torch.Tensor,
        dO: torch.Tensor,
        dLSE: torch.Tensor | None,
        seqlens_k: torch.Tensor | None,
        dQ: torch.Tensor | None,
        dK: torch.Tensor | None,
        dV: torch.Tensor | None,
        *skipped: torch.Tensor,
    ) -> None:
        delta = torch.empty_like(lse)
        if delta_of is not None:
            delta_of(dO, o, lse, dLSE, delta, None, None)
        if kv is not None:
            kv(q, k, v, dO, lse, delta, seqlens_k, dK, dV, *skipped[:1])
        if to_q is not None:
            to_q(q, k, v, dO, lse, delta, seqlens_k, dQ, *skipped[1:])

    return launch


def delta_launch(problem: BackwardProblem, stride: int, rows: int | None = None) -> Launch:
    """What makes delta of dO, O, LSE and dLSE; heads of delta, and of LSE in log2 units or None, are `stride` apart.

    The last tensor, or None, becomes 0: rows * block_d(d) fp32 for each program, which has so many rows of a head.
    """
    forward = problem.forward
    width = block_d(forward.d)
    rows = rows or max(1, _DELTA_ELEMENTS // width)
    scalars = (
        *(*problem.dO_strides, *problem.O_strides, *(problem.dLSE_strides or (0, 0, 0))),
        *(stride, forward.Hq, forward.Nq, forward.d),
    )
    aligned, strides = (problem.dO_aligned, problem.O_aligned), (problem.dO_strides, problem.O_strides)
    constexprs = (
        *(width, problem.dLSE_strides is not None, forward.d != width),
        *(is_fast(forward.dtype, forward.d, aligned, strides), _is_widened(forward), rows),
    )
    options = {"num_warps": _DELTA_WARPS}
    return Launch(_delta, grid(forward.heads, forward.Nq, rows), (*scalars, *constexprs), options, forward.device)


def _kv_launch(problem: BackwardProblem, tile: TileConfig, count: bool) -> Launch:
    forward, (_, need_k, need_v) = problem.forward, problem.needs
    sizes = (forward.B * forward.Hk, forward.Hk, forward.group, forward.Nq, forward.Nk, forward.d)
    scalars = (*_strides(problem), *sizes, *_last_scalars(forward, kv_section(forward)))
    constexprs = {**_constexprs(problem), "NEED_K": need_k, "NEED_V": need_v, "COUNT": count, **tile.blocks()}
    programs = grid(forward.B * forward.Hk, forward.Nk, tile.BLOCK_N)
    return Launch(_backward_kv, programs, arguments_of(scalars, constexprs, count), _options(tile), forward.device)


def _q_launch(problem: BackwardProblem, tile: TileConfig, count: bool) -> Launch:
    forward = problem.forward
    sizes = (forward.heads, forward.Hq, forward.group, forward.Nq, forward.Nk, forward.d)
    scalars = (*_strides(problem), *sizes, *_last_scalars(forward, section(forward)))
    constexprs = {**_constexprs(problem), "COUNT": count, **tile.blocks()}
    programs = grid(forward.heads, forward.Nq, tile.BLOCK_M)
    return Launch(_backward_q, programs, arguments_of(scalars, constexprs, count), _options(tile), forward.device)


def _strides(problem: BackwardProblem) -> tuple[int, ...]:
    tensors = (*problem.forward.strides, problem.dO_strides)
    return (*(stride for of_tensor in tensors for stride in of_tensor), problem.forward.seqlens_stride)


def _last_scalars(forward: Problem, heads_side_by_side: int) -> tuple[int | float, ...]:
    sign, scale_log2 = split_scale(forward.scale)
    scale = float(np.float32(forward.scale))
    return (int(forward.alignment == "lower_right"), heads_side_by_side, scale, sign * scale_log2)


def _constexprs(problem: BackwardProblem) -> dict[str, Any]:
    """What `_backward_kv` and `_backward_q` both know when they are compiled, in the order of their signatures."""
    forward, dO = problem.forward, problem.dO_strides
    sign, _ = split_scale(forward.scale)
    shared = constexprs_of(forward, sign)
    names = ("BLOCK_D", "CAUSAL", "HAS_SEQLENS", "PAD_D", "FAST")
    return {
        **{name: shared[name] for name in names},
        "FAST_DO": is_fast(forward.dtype, forward.d, (problem.dO_aligned,), (dO,)),
        "WIDE": is_wide((*forward.strides, dO), shared["BLOCK_D"]),
        "ZERO_SCALE": sign == 0,
        "WIDEN": shared["WIDEN"],
    }


def _options(tile: TileConfig) -> dict[str, int]:
    return {"num_warps": tile.num_warps, "num_stages": tile.num_stages}


def _is_widened(forward: Problem) -> bool:
    return INTERPRETED and forward.dtype == torch.bfloat16


def kv_section(problem: Problem) -> int:
    """KV heads whose key tiles run side by side: one; for causal, longest first, as many as fit the L2 cache.

    What a KV head's programs read again and again are q and dO of its group.
    """
    if not problem.causal:
        return 1
    bytes_of_head = max(1, 2 * problem.group * problem.Nq * problem.d * problem.dtype.itemsize)
    fitting = max(1, _L2_BYTES // bytes_of_head)
    return max(1, min(problem.B * problem.Hk, 1 << (fitting.bit_length() - 1)))
