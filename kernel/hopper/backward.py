"""The Hopper backward path: two Gluon kernels, one for dK and dV and one for dQ, for fp16 and bf16 on sm_90."""

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
from ..portable.bind import split_scale
from ..tiles.config import block_d
from .forward import ROWS, Block, device_refusal, is_masked, persistent, problem_refusal, takes_strides, tile_width

BLOCK = 2 * ROWS
"""Rows of a program's own tile, 64 for each of two warpgroups: keys in the one kernel, queries in the other."""
REGISTERS = 240
"""A thread's, of those warpgroups: the 65,536 of a multiprocessor less 24 for each thread that loads."""
_PITCH = 4
"""Heads of LSE and delta begin at multiples of this many fp32, the unit of TMA."""
_WIDEST = 128
"""Elements of a head-dim tile: of a wider one, dK and dV do not fit the registers."""


class Tile(NamedTuple):
    """BLOCK_M query rows against BLOCK_N keys: rings of `slots` tiles that pass, and of `own` of the program's."""

    BLOCK_M: int
    BLOCK_N: int
    slots: int
    own: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


class Tiles(NamedTuple):
    """The tile of the kernel of dK and dV, and that of the kernel of dQ."""

    kv: Tile
    q: Tile

    def __str__(self) -> str:
        return f"{self.kv}+{self.q}"


# What fits and does not spill in its loops, by head-dim tile, each the best at something on an H100.
TILES: dict[int, tuple[Tiles, ...]] = {
    64: (
        Tiles(Tile(64, BLOCK, 2, 2), Tile(BLOCK, 128, 2, 2)),  # not causal
        Tiles(Tile(64, BLOCK, 3, 2), Tile(BLOCK, 128, 2, 2)),  # causal
    ),
    128: (Tiles(Tile(64, BLOCK, 3, 1), Tile(BLOCK, 128, 2, 1)),),
}


@dataclass(frozen=True)
class HopperBackward:
    """A `plan.Path`; its tiles read "64x128x3x1+128x128x2x1", of dK and dV first.

    least_rows: fewer query rows are refused.
    """

    least_rows: int = 1
    name: ClassVar[str] = "hopper"

    def refusal(self, problem: BackwardProblem) -> str | None:
        """Why the problem is not one for the kernels, or None."""
        forward = problem.forward
        if forward.Nq < self.least_rows:
            return f"there are fewer than {self.least_rows} query rows"
        if block_d(forward.d) > _WIDEST:
            return f"the head dim is over {_WIDEST}"
        return device_refusal(forward.device) or problem_refusal(forward)

    def configs(self, problem: BackwardProblem) -> tuple[str, ...]:
        """The tiles of the head dim, the default first."""
        return tuple(map(str, pairs_of(problem.forward)))

    def plan(self, problem: BackwardProblem, config: str | None = None) -> Plan:
        """The plan at a pair of tiles or at the shipped one."""
        tiles = pairs_of(problem.forward)[0] if config is None else _parse(config, problem.forward)
        return Plan(self.name, str(tiles), _launch(problem, tiles))


def pairs_of(forward: Problem) -> tuple[Tiles, ...]:
    """The tiles of a problem, the shipped ones first."""
    tiles = TILES[tile_width(forward.d)]
    return tiles[::-1] if forward.causal else tiles


def _parse(config: str, forward: Problem) -> Tiles:
    """ValueError where the tiles cannot be read, NotImplementedError where they are none of the head dim's."""
    one = r"\d+x\d+x\d+x\d+"
    if re.fullmatch(rf"{one}\+{one}", config) is None:
        raise ValueError(f"config /hopper: must read like {TILES[128][0]} (rows x keys x slots x own), got {config!r}")
    known = {str(tiles): tiles for tiles in pairs_of(forward)}
    if config not in known:
        raise NotImplementedError(f"config /hopper:{config} must be one of {', '.join(known)} for this head dim")
    return known[config]


def _launch(problem: BackwardProblem, tiles: Tiles) -> Callable[..., None]:
    """Launch the kernels on q, k, v, O, LSE, dO, dLSE, seqlens_k, dQ, dK and dV; None for what is absent."""
    forward, (need_q, need_k, need_v) = problem.forward, problem.needs
    pitch = triton.cdiv(forward.Nq, _PITCH) * _PITCH
    delta_of = delta_launch(problem, pitch)
    kv = _kv_launch(forward, tiles.kv, _dO_strides(problem), pitch) if need_k or need_v else None
    to_q = _q_launch(forward, tiles.q, _dO_strides(problem), pitch) if need_q else None
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
        dQ: torch.Tensor | None,
        dK: torch.Tensor | None,
        dV: torch.Tensor | None,
    ) -> None:
        stats = torch.empty(2, forward.heads, pitch, dtype=torch.float32, device=q.device)
        delta_of(dO, o, lse, dLSE, stats[1], stats[0], None)
        if not takes_dO:
            dO = dO.clone(memory_format=torch.contiguous_format)
        if may_be_empty:
            # A row that sees nothing may have any dO, NaN too, and TMA has no mask.
            dO.masked_fill_((lse == -torch.inf)[..., None], 0.0)
        if kv is not None:
            # One kernel makes both; what is not wanted is made and dropped.
            kv(
                q,
                k,
                v,
                dO,
                stats,
                torch.empty_like(k) if dK is None else dK,
                torch.empty_like(v) if dV is None else dV,
                seqlens_k,
            )
        if to_q is not None:
            to_q(q, k, v, dO, dQ, stats, seqlens_k)

    return launch


def _takes_dO(problem: BackwardProblem) -> bool:
    """Whether dO is read as it lies; it is copied where TMA does not take it, as with the stride 0 of a sum's gradient.

    And where rows are to be blotted out of it.
    """
    forward = problem.forward
    return (
        not _may_rows_be_empty(forward)
        and problem.dO_aligned
        and takes_strides(problem.dO_strides, (forward.B, forward.Hq, forward.Nq))
    )


def _may_rows_be_empty(forward: Problem) -> bool:
    """Whether a row may see no key of a batch entry that has keys: only above the diagonal's lower right end."""
    return forward.alignment == "lower_right" and (forward.Nq > forward.Nk or forward.seqlens_dtype is not None)


def _dO_strides(problem: BackwardProblem) -> tuple[int, ...]:
    return problem.dO_strides if _takes_dO(problem) else _contiguous(_q_sizes(problem.forward))


def _kv_launch(forward: Problem, tile: Tile, dO_strides: tuple[int, ...], pitch: int) -> Launch:
    """What runs the kernel of dK and dV on q, k, v, dO, LSE and delta, dK, dV and seqlens_k."""
    # Imported here: where the path is refused, Gluon need not be there.
    from .device.backward_kv import _backward_kv_hopper

    k_tiles = triton.cdiv(forward.Nk, tile.BLOCK_N)
    units = forward.B * forward.Hk * (triton.cdiv(k_tiles, 2) if forward.causal else k_tiles)
    arguments = (
        *_sizes(forward, k_tiles, units),
        *(tile.slots, tile.own, REGISTERS, forward.causal),
    )
    width, bits = _width_and_bits(forward)
    q_sizes, kv_sizes = _q_sizes(forward), _kv_sizes(forward)
    q, k, v = forward.strides
    blocks = (
        Block(q_sizes, q, tile.BLOCK_M, width, bits),
        Block(kv_sizes, k, ROWS, width, bits),
        Block(kv_sizes, v, ROWS, width, bits),
        Block(q_sizes, dO_strides, tile.BLOCK_M, width, bits),
        Block((2 * forward.heads, forward.Nq), (pitch, 1), 1, tile.BLOCK_M, 32),
        *(Block(kv_sizes, _contiguous(kv_sizes), ROWS, width, bits) for _ in "kv"),
    )
    return persistent(_backward_kv_hopper, units, arguments, forward.device, blocks)


def _q_launch(forward: Problem, tile: Tile, dO_strides: tuple[int, ...], pitch: int) -> Launch:
    """What runs the kernel of dQ on q, k, v, dO, dQ, LSE and delta, and seqlens_k."""
    from .device.backward_q import _backward_q_hopper

    q_tiles = triton.cdiv(forward.Nq, tile.BLOCK_M)
    units = forward.heads * (triton.cdiv(q_tiles, 2) if forward.causal else q_tiles)
    arguments = (
        *(pitch, *_sizes(forward, q_tiles, units)),
        *(tile.slots, tile.own, REGISTERS, forward.causal, is_masked(forward, tile.BLOCK_N)),
    )
    width, bits = _width_and_bits(forward)
    q_sizes, kv_sizes = _q_sizes(forward), _kv_sizes(forward)
    q, k, v = forward.strides
    blocks = (
        Block(q_sizes, q, ROWS, width, bits),
        Block(kv_sizes, k, tile.BLOCK_N, width, bits),
        Block(kv_sizes, v, tile.BLOCK_N, width, bits),
        Block(q_sizes, dO_strides, ROWS, width, bits),
        Block(q_sizes, _contiguous(q_sizes), ROWS, width, bits),
    )
    return persistent(_backward_q_hopper, units, arguments, forward.device, blocks)


def _sizes(forward: Problem, tiles: int, units: int) -> tuple[Any, ...]:
    """What both kernels take after their tensors and the pitch of LSE and delta."""
    sign, scale_log2 = split_scale(forward.scale)
    return (
        *(forward.seqlens_stride, forward.Hq, forward.group, forward.Nq, forward.Nk, tiles),
        *(int(forward.alignment == "lower_right"), forward.heads, units, forward.scale, sign * scale_log2),
    )


def _width_and_bits(forward: Problem) -> tuple[int, int]:
    return tile_width(forward.d), 8 * forward.dtype.itemsize


def _q_sizes(forward: Problem) -> tuple[int, int, int, int]:
    return forward.B, forward.Hq, forward.Nq, forward.d


def _kv_sizes(forward: Problem) -> tuple[int, int, int, int]:
    return forward.B, forward.Hk, forward.Nk, forward.d


def _contiguous(sizes: tuple[int, int, int, int]) -> tuple[int, ...]:
    _, H, N, d = sizes
    return H * N * d, N * d, d, 1
