"""The portable path: the Triton kernel of `device/forward.py`, for every call, device and layout."""

from __future__ import annotations

from ..call.launch import Launch
from ..call.plan import Plan
from ..call.problem import Problem
from ..tiles.config import TileConfig
from ..tiles.defaults import default_tile
from ..tiles.space import FORWARD, check_pinned
from .bind import constexprs_of, fitting_the_cache, grid, split_scale, where_of
from .device.forward import _forward


class Portable:
    """A `plan.Path` that takes every problem; its tiles read "64x64x4x3"."""

    name = "portable"

    def refusal(self, problem: Problem) -> str | None:
        """None: nothing is refused."""
        return None

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """The tiles that fit the device, the shipped one first, or the interpreter's one."""
        where = where_of(problem)
        return tuple(map(str, dict.fromkeys((default_tile(where, problem.causal), *FORWARD.fitting(where)))))

    def plan(self, problem: Problem, config: str | None = None) -> Plan:
        """The plan at a tile or at the device's default one."""
        tile = _usable_tile(problem, config)
        return Plan(self.name, str(tile), _launch(problem, tile))


def _usable_tile(problem: Problem, config: str | None) -> TileConfig:
    """The pinned tile, if it can run, or the default one; NotImplementedError where it cannot."""
    where = where_of(problem)
    if config is None:
        return default_tile(where, problem.causal)
    tile = TileConfig.parse(config)
    check_pinned(tile, where)
    return tile


def _launch(problem: Problem, tile: TileConfig) -> Launch:
    """The launch of the kernel on q, k, v, O, LSE and seqlens_k."""
    sign, scale_log2 = split_scale(problem.scale)
    scalars = (
        *(stride for of_tensor in problem.strides for stride in of_tensor),
        *(problem.seqlens_stride, problem.heads, problem.Hq, problem.group, problem.Nq, problem.Nk, problem.d),
        *(int(problem.alignment == "lower_right"), section(problem), scale_log2),
    )
    arguments = (*scalars, *constexprs_of(problem, sign).values(), *tile.blocks().values())
    programs = grid(problem.heads, problem.Nq, tile.BLOCK_M)
    return Launch(_forward, programs, arguments, tile.options(), problem.device)


def section(problem: Problem) -> int:
    """Heads that run side by side: those of a KV head; for causal, longest first, as many as fit the L2 cache.

    The programs of one group's heads at the same query rows are neighbours, so K and V are read from memory once for
    the group and from the L2 cache otherwise.
    """
    if not problem.causal:
        return problem.group
    keys_and_values = 2 * problem.Nk * problem.d * problem.dtype.itemsize
    return min(problem.heads, problem.group * fitting_the_cache(keys_and_values))
