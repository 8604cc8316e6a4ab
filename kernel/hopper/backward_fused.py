"""The fused Hopper backward path: one Gluon kernel for dQ, dK and dV, for fp16 and bf16 on sm_90.

dQ is added up in fp32 in the order in which programs come, so its last bits may differ from run to run. Where the same
bits are asked for every time, this path refuses, and `backward.py` has the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import triton

from ..call.launch import Launch
from ..call.plan import Plan
from ..call.problem import BackwardProblem, Problem
from ..portable.backward import delta_launch
from .backward import (
    _PITCH,
    REGISTERS,
    _contiguous,
    _dO_strides,
    _kv_sizes,
    _may_rows_be_empty,
    _q_sizes,
    _sizes,
    _takes_dO,
    _width_and_bits,
)
from .device.fused_sum import _scale_dq
from .forward import ROWS, Block, device_refusal, is_masked, persistent, problem_refusal, tile_width

SUM_COLUMNS = 64
"""Columns of dQ that are added at once."""
LEAST_KEYS = {64: 256, 128: 640, 256: 1}
"""Keys that a row sees on average, by head-dim tile, from which the path is chosen.

Below, filling the sum with 0 and reading it again takes what the kernel gains. On an H200 the two kernels are faster at
d 128 with 512 keys a row and slower with 1,024, and slower at d 64 with 512; the rest is extrapolated from these.
"""


class FusedTile(NamedTuple):
    """BLOCK_M query rows against BLOCK_N keys; `slots` tiles of Q and dO, and `own` of K and V, fit their rings."""

    BLOCK_M: int
    BLOCK_N: int
    slots: int
    own: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


# What fits and does not spill in its loops, by head-dim tile; each the best that was tried on an H200.
TILES: dict[int, tuple[FusedTile, ...]] = {
    64: (FusedTile(64, 128, 3, 2),),
    128: (FusedTile(64, 128, 2, 1),),
    256: (FusedTile(64, 64, 2, 1),),
}


@dataclass(frozen=True)
class FusedBackward:
    """A `plan.Path`; its tiles read "64x128x3x2".

    least_rows: fewer query rows are refused, and where it is over 1, rows that see fewer than LEAST_KEYS on average.
    """

    least_rows: int = 1
    name: ClassVar[str] = "fused"

    def refusal(self, problem: BackwardProblem) -> str | None:
        """Why the problem is not one for the kernels, or None."""
        forward = problem.forward
        if problem.deterministic:
            return "dQ is summed in no fixed order, and the same bits are asked for every time"
        if not all(problem.needs):
            return "not all three gradients are wanted"
        if forward.Nq < self.least_rows:
            return f"there are fewer than {self.least_rows} query rows"
        reason = device_refusal(forward.device) or problem_refusal(forward)
        if reason is None and self.least_rows > 1 and _keys_seen(forward) < LEAST_KEYS[tile_width(forward.d)]:
            return "a row sees too few keys"
        return reason

    def configs(self, problem: BackwardProblem) -> tuple[str, ...]:
        """The tiles of the head dim, the default first."""
        return tuple(map(str, tiles_of(problem.forward)))

    def plan(self, problem: BackwardProblem, config: str | None = None) -> Plan:
        """The plan at a tile or at the shipped one."""
        tile = tiles_of(problem.forward)[0] if config is None else _parse(config, problem.forward)
        return Plan(self.name, str(tile), _launch(problem, tile))


def tiles_of(forward: Problem) -> tuple[FusedTile, ...]:
    """The tiles of a problem, the shipped one first."""
    return TILES[tile_width(forward.d)]


def constexprs_of(width: int, tile: FusedTile) -> dict[str, int]:
    """What a tile makes of the kernel of a head-dim tile, in the order of its signature."""
    if width == 64:
        # Of the 512 registers that a thread of each of four warpgroups may have on average: twice what dK and dV take,
        # what dQ takes, and 24 for those that load.
        return {"SLOTS": tile.slots, "KV_SLOTS": tile.own, "DQ_SLOTS": 2, "REGISTERS": 200, "REGISTERS_OF_DQ": 88}
    return {"SLOTS": tile.slots, "REGISTERS": REGISTERS}


def kernel_of(width: int) -> Any:
    """The Gluon kernel of a head-dim tile."""
    # Imported here: where the path is refused, Gluon need not be there.
    from .device.fused_narrow import _backward_narrow_hopper
    from .device.fused_wide import _backward_wide_hopper
    from .device.fused_widest import _backward_widest_hopper

    return {64: _backward_narrow_hopper, 128: _backward_wide_hopper, 256: _backward_widest_hopper}[width]


def adds_by_copy(width: int) -> bool:
    """Whether the kernel adds dQ by TMA, to a sum in rows; else it does by atomic operations, to one in tiles."""
    return width <= 128


def _keys_seen(forward: Problem) -> int:
    """Keys that a row sees on average, whatever the lengths say."""
    return forward.Nk // 2 if forward.causal else forward.Nk


def _parse(config: str, forward: Problem) -> FusedTile:
    """ValueError where the tile cannot be read, NotImplementedError where it is none of the head dim's."""
    if re.fullmatch(r"\d+x\d+x\d+x\d+", config) is None:
        raise ValueError(f"config /fused: must read like {TILES[64][0]} (rows x keys x slots x own), got {config!r}")
    tile = FusedTile(*map(int, config.split("x")))
    if tile not in tiles_of(forward):
        known = ", ".join(map(str, tiles_of(forward)))
        raise NotImplementedError(f"config /fused:{config} must be one of {known} for this head dim")
    return tile


def _launch(problem: BackwardProblem, tile: FusedTile) -> Callable[..., None]:
    """Launch the kernels on q, k, v, O, LSE, dO, dLSE, seqlens_k, dQ, dK and dV; None for what is absent."""
    forward = problem.forward
    pitch = triton.cdiv(forward.Nq, _PITCH) * _PITCH
    delta_of = delta_launch(problem, pitch, ROWS)
    fused = _fused_launch(forward, tile, _dO_strides(problem), pitch)
    scaled = _scale_launch(forward)
    elements = forward.heads * triton.cdiv(forward.Nq, ROWS) * ROWS * tile_width(forward.d)
    takes_dO, may_be_empty = _takes_dO(problem), _may_rows_be_empty(forward)

    def launch(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        o: torch.Tensor,
        lse: torch.Tensor,
        dO: torch.Tensor,
        dLSE: torch.Tensor | None,
        seqlens_k: torch.Tensor | None,
        dQ: torch.Tensor,
        dK: torch.Tensor,
        dV: torch.Tensor,
    ) -> None:
        stats = torch.empty(2, forward.heads, pitch, dtype=torch.float32, device=q.device)
        total = torch.empty(elements, dtype=torch.float32, device=q.device)
        delta_of(dO, o, lse, dLSE, stats[1], stats[0], total)
        if not takes_dO:
            dO = dO.clone(memory_format=torch.contiguous_format)
        if may_be_empty:
            # A row that sees nothing may have any dO, NaN too, and TMA has no mask.
            dO.masked_fill_((lse == -torch.inf)[..., None], 0.0)
        fused(q, k, v, dO, stats, dK, dV, total, seqlens_k)
        scaled(total, dQ)

    return launch


def _fused_launch(forward: Problem, tile: FusedTile, dO_strides: tuple[int, ...], pitch: int) -> Launch:
    """What runs the kernel on q, k, v, dO, LSE and delta, dK, dV, the fp32 sum of dQ / scale, and seqlens_k."""
    k_tiles = triton.cdiv(forward.Nk, tile.BLOCK_N)
    units = forward.B * forward.Hk * (triton.cdiv(k_tiles, 2) if forward.causal else k_tiles)
    width, bits = _width_and_bits(forward)
    arguments = (
        *_sizes(forward, k_tiles, units),
        *(*constexprs_of(width, tile).values(), forward.causal, is_masked(forward, tile.BLOCK_N)),
    )
    q_sizes, kv_sizes = _q_sizes(forward), _kv_sizes(forward)
    q, k, v = forward.strides
    blocks: tuple[Block, ...] = (
        Block(q_sizes, q, tile.BLOCK_M, width, bits),
        Block(kv_sizes, k, ROWS, width, bits),
        Block(kv_sizes, v, ROWS, width, bits),
        Block(q_sizes, dO_strides, tile.BLOCK_M, width, bits),
        Block((2 * forward.heads, forward.Nq), (pitch, 1), 1, tile.BLOCK_M, 32),
        *(Block(kv_sizes, _contiguous(kv_sizes), ROWS, width, bits) for _ in "kv"),
    )
    if adds_by_copy(width):
        rows = forward.heads * triton.cdiv(forward.Nq, ROWS) * ROWS
        blocks += (Block((rows, width), (width, 1), tile.BLOCK_M, SUM_COLUMNS, 32, swizzle=128),)
    return persistent(kernel_of(width), units, arguments, forward.device, blocks)


def _scale_launch(forward: Problem) -> Launch:
    """What makes dQ of its fp32 sum."""
    width, q_tiles = tile_width(forward.d), triton.cdiv(forward.Nq, ROWS)
    parts = width // SUM_COLUMNS
    arguments = (forward.scale, q_tiles, forward.Nq, forward.d, parts, not adds_by_copy(width))
    return Launch(_scale_dq, (forward.heads * q_tiles * parts,), arguments, {"num_warps": 4}, forward.device)
