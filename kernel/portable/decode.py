"""The path for few query rows: heads of a group packed into one tile, keys in parts that run side by side.

Where the keys are cut depends on Nk alone, never on the batch, the heads or the group, so a row's result does not
depend on the other rows.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import torch
import triton

from ..call.launch import Launch
from ..call.plan import Plan
from ..call.problem import Problem
from ..tiles.config import TileConfig, Where, block_d
from ..tiles.space import check_pinned
from .bind import constexprs_of, is_widened, split_scale, where_of
from .device.decode import _decode, _merge

MOST_ROWS = 16
WORTH_IT = 2048
"""Keys from which the path is chosen. Timed on an H100 in bf16 with 2,048 to 131,072 keys it is as fast as the portable
path with one head to a group, and 1.4 to 10 times as fast with more; with 300 keys no faster. Nothing between."""
_SHORTEST_PART, _LONGEST_PART, _PARTS = 512, 2048, 32
_PARTS_A_STEP = 16

INTERPRETER_TILE = TileConfig(16, 64, 4, 1)
_HALF_SPACE = (TileConfig(16, 64, 4, 3), TileConfig(16, 64, 4, 2), TileConfig(16, 128, 8, 2), TileConfig(16, 32, 4, 2))
_HALF_DEFAULTS = ((64, TileConfig(16, 64, 4, 3)), (128, TileConfig(16, 64, 4, 2)), (256, TileConfig(16, 32, 4, 2)))
_FMA_DEFAULTS = ((64, TileConfig(16, 32, 4, 1)), (128, TileConfig(16, 32, 8, 1)), (256, TileConfig(16, 16, 8, 1)))


@dataclass(frozen=True)
class Decode:
    """A `plan.Path` for at most `MOST_ROWS` query rows; its tiles read "16x64x4x3", BLOCK_M against packed rows.

    least_keys: fewer keys are refused. fp32: whether fp32 is taken, which was never timed.
    """

    least_keys: int = 0
    fp32: bool = True
    name: ClassVar[str] = "decode"

    def refusal(self, problem: Problem) -> str | None:
        """It takes few query rows."""
        if problem.Nq > MOST_ROWS:
            return f"there are more than {MOST_ROWS} query rows"
        if problem.Nk < self.least_keys:
            return f"there are fewer than {self.least_keys} keys"
        if problem.dtype == torch.float32 and not self.fp32:
            return "it was not timed in float32"
        return None

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """The tiles that fit the device, the shipped one first, or the interpreter's one."""
        where = where_of(problem)
        tiles = dict.fromkeys((default_tile(where), *(_HALF_SPACE if where.arch else ())))
        return tuple(str(tile) for tile in tiles if _runs(tile, where))

    def plan(self, problem: Problem, config: str | None = None) -> Plan:
        """The plan at a tile or at the default one."""
        tile = _usable_tile(problem, config)
        parts = triton.cdiv(problem.Nk, part_of(problem.Nk))
        first = _first(problem, tile, parts)
        launch = _Whole(first) if parts <= 1 else _Split(first, _second(problem, parts), parts)
        return Plan(self.name, str(tile), launch)


@dataclass(frozen=True)
class _Whole:
    """One part: the first kernel writes O and LSE."""

    first: Launch

    def __call__(self, *tensors: torch.Tensor | None) -> None:
        self.first(*tensors, None, None, None)


@dataclass(frozen=True)
class _Split:
    """Several parts: the first kernel leaves acc, m and l of each, in fp32, and the second one merges them."""

    first: Launch
    second: Launch
    parts: int

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        o: torch.Tensor,
        lse: torch.Tensor,
        seqlens_k: torch.Tensor | None,
    ) -> None:
        acc = torch.empty(*q.shape[:3], self.parts, q.shape[3], dtype=torch.float32, device=q.device)
        m = torch.empty(*q.shape[:3], self.parts, dtype=torch.float32, device=q.device)
        l = torch.empty_like(m)
        self.first(q, k, v, o, lse, seqlens_k, acc, m, l)
        self.second(o, lse, acc, m, l)


def part_of(Nk: int) -> int:
    """Keys in a part: the least power of two from 512 to 2048 that makes at most 32 parts, or 2048.

    On an H100 with 8,192 keys 512 is best over seven problems together: 256 is 10 % faster where one sequence must fill
    the device, 1024 is 3 to 7 % faster where many do. A rule that counted sequences or heads would be faster, but a
    row's bits would then depend on the rest of the call.
    """
    wanted = max(1, -(-Nk // _PARTS))
    return min(_LONGEST_PART, max(_SHORTEST_PART, 1 << (wanted - 1).bit_length()))


def default_tile(where: Where) -> TileConfig:
    """The shipped tile of a head-dim tile, on every architecture: it compiles without spilling.

    On an H100, in bf16, no other of the tiles that autotuning tries was 10 % faster on any of eleven problems.
    """
    if not where.arch:
        return INTERPRETER_TILE
    rows = _FMA_DEFAULTS if where.dtype == torch.float32 else _HALF_DEFAULTS
    return next(tile for widest, tile in rows if widest >= where.BLOCK_D)


def _usable_tile(problem: Problem, config: str | None) -> TileConfig:
    """The pinned tile, if it can run, or the default one; NotImplementedError where it cannot."""
    where = where_of(problem)
    if config is None:
        return default_tile(where)
    tile = TileConfig.parse(config)
    check_pinned(tile, where)
    return tile


def _runs(tile: TileConfig, where: Where) -> bool:
    with contextlib.suppress(NotImplementedError):
        check_pinned(tile, where)
        return True
    return False


def _first(problem: Problem, tile: TileConfig, parts: int) -> Launch:
    sign, scale_log2 = split_scale(problem.scale)
    scalars = (
        *(stride for of_tensor in problem.strides for stride in of_tensor),
        *(problem.seqlens_stride, problem.Hk, problem.group, problem.Nq, problem.Nk, problem.d),
        *(int(problem.alignment == "lower_right"), part_of(problem.Nk), max(1, parts), scale_log2),
    )
    constexprs = {**constexprs_of(problem, sign), "SPLIT": parts > 1, **tile.blocks()}
    row_tiles = triton.cdiv(problem.group * problem.Nq, tile.BLOCK_M)
    grid = (problem.B * problem.Hk * max(1, parts) * row_tiles,)
    return Launch(_decode, grid, (*scalars, *constexprs.values()), tile.options(), problem.device)


def _second(problem: Problem, parts: int) -> Launch:
    arguments = (parts, problem.d, block_d(problem.d), is_widened(problem), _PARTS_A_STEP)
    return Launch(_merge, (problem.heads * problem.Nq,), arguments, {"num_warps": 4}, problem.device)
