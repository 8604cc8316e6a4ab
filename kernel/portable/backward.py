"""The portable backward path: the kernels of `device/backward.py`, for every call, device and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..call.launch import Launch
from ..call.plan import Plan
from ..call.problem import BackwardProblem, Problem
from ..tiles.config import BackwardTiles, TileConfig, block_d
from ..tiles.defaults import default_pair
from ..tiles.space import fitting_pairs, pair_fits
from .bind import constexprs_of, fitting_the_cache, grid, is_fast, is_wide, is_widened, split_scale, where_of
from .device.backward import _backward_kv, _backward_q, _delta
from .forward import section

_DELTA_ELEMENTS = 4096
_DELTA_WARPS = 4


class PortableBackward:
    """A `plan.Path` that takes every problem; its tiles read "64x128x8x2+128x64x8x2"."""

    name = "portable"

    def refusal(self, problem: BackwardProblem) -> str | None:
        """None: nothing is refused."""
        return None

    def configs(self, problem: BackwardProblem) -> tuple[str, ...]:
        """The tiles that fit the device, the shipped ones first, or the interpreter's."""
        where = where_of(problem.forward)
        return tuple(map(str, dict.fromkeys((default_pair(where, problem.forward.causal), *fitting_pairs(where)))))

    def plan(self, problem: BackwardProblem, config: str | None = None) -> Plan:
        """The plan at a pair of tiles or at the device's default one."""
        tiles = _usable_tiles(problem, config)
        return Plan(self.name, str(tiles), _launch(problem, tiles))

    def like(self, problem: BackwardProblem, tile: TileConfig) -> str | None:
        """The config of both kernels at the tile of a forward pass, in one stage, or None where that does not fit."""
        tiles, where = BackwardTiles.of(tile), where_of(problem.forward)
        return str(tiles) if not where.arch or pair_fits(tiles, where) else None


def _usable_tiles(problem: BackwardProblem, config: str | None) -> BackwardTiles:
    """The pinned tiles, if they can run, or the default ones; NotImplementedError where they cannot."""
    where = where_of(problem.forward)
    if config is None:
        return default_pair(where, problem.forward.causal)
    tiles = BackwardTiles.parse(config)
    if where.arch and not pair_fits(tiles, where):
        raise NotImplementedError(f"config /{tiles} needs more shared memory or registers than there are for {where}")
    return tiles


def _launch(problem: BackwardProblem, tiles: BackwardTiles) -> Callable[..., None]:
    """Launch the kernels on q, k, v, O, LSE, dO, dLSE, seqlens_k, dQ, dK and dV; None for what is absent."""
    need_q, need_k, need_v = problem.needs
    forward = problem.forward
    kv = _kv_launch(problem, tiles.kv) if (need_k or need_v) and forward.B * forward.Hk * forward.Nk else None
    to_q = _q_launch(problem, tiles.q) if need_q and forward.heads * forward.Nq else None
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
    ) -> None:
        delta = torch.empty_like(lse)
        if delta_of is not None:
            delta_of(dO, o, lse, dLSE, delta, None, None)
        if kv is not None:
            kv(q, k, v, dO, lse, delta, seqlens_k, dK, dV)
        if to_q is not None:
            to_q(q, k, v, dO, lse, delta, seqlens_k, dQ)

    return launch


def delta_launch(problem: BackwardProblem, stride: int, rows: int | None = None) -> Launch:
    """What makes delta of dO, O, LSE and dLSE; heads of delta, and of LSE in log2 units or None, are `stride` apart.

    The last tensor, or None, becomes 0: rows * block_d(d) fp32 for each program, which has `rows` rows of a head.
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
        *(is_fast(forward.dtype, forward.d, aligned, strides), is_widened(forward), rows),
    )
    options = {"num_warps": _DELTA_WARPS}
    return Launch(_delta, grid(forward.heads, forward.Nq, rows), (*scalars, *constexprs), options, forward.device)


def _kv_launch(problem: BackwardProblem, tile: TileConfig) -> Launch:
    forward, (_, need_k, need_v) = problem.forward, problem.needs
    sizes = (forward.B * forward.Hk, forward.Hk, forward.group, forward.Nq, forward.Nk, forward.d)
    scalars = (*_strides(problem), *sizes, *_last_scalars(forward, kv_section(forward)))
    constexprs = {**_constexprs(problem), "NEED_K": need_k, "NEED_V": need_v, **tile.blocks()}
    programs = grid(forward.B * forward.Hk, forward.Nk, tile.BLOCK_N)
    return Launch(_backward_kv, programs, (*scalars, *constexprs.values()), tile.options(), forward.device)


def _q_launch(problem: BackwardProblem, tile: TileConfig) -> Launch:
    forward = problem.forward
    sizes = (forward.heads, forward.Hq, forward.group, forward.Nq, forward.Nk, forward.d)
    scalars = (*_strides(problem), *sizes, *_last_scalars(forward, section(forward)))
    constexprs = {**_constexprs(problem), **tile.blocks()}
    programs = grid(forward.heads, forward.Nq, tile.BLOCK_M)
    return Launch(_backward_q, programs, (*scalars, *constexprs.values()), tile.options(), forward.device)


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


def kv_section(problem: Problem) -> int:
    """KV heads whose key tiles run side by side: one; for causal, longest first, as many as fit the L2 cache.

    What a KV head's programs read again and again are q and dO of its group.
    """
    if not problem.causal:
        return 1
    queries_and_dO = 2 * problem.group * problem.Nq * problem.d * problem.dtype.itemsize
    return max(1, min(problem.B * problem.Hk, fitting_the_cache(queries_and_dO)))
