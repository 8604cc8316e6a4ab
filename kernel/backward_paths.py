"""Which path takes a backward call, and the plan that it makes; the forward pass's are in `paths.py`.

`config` says both: "FORWARD/BACKWARD", of which either half may be left out with the slash in front of it.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from .backward_arguments import BackwardProblem, check_backward
from .backward_tiles import BackwardTiles
from .hopper import WORTH_IT
from .hopper_backward import HopperBackward
from .hopper_backward_fused import FusedBackward
from .paths import AUTOTUNE, MOST_PLANS, PORTABLE, _check_device, _log_refusal, parse_config
from .plan import BackwardPath, Plan
from .portable_backward import PortableBackward
from .tiles import TileConfig
from .tuning import tuned_plan

PORTABLE_BACKWARD = PortableBackward()
BACKWARD_PATHS: tuple[BackwardPath, ...] = (FusedBackward(WORTH_IT), HopperBackward(WORTH_IT), PORTABLE_BACKWARD)
"""What the backward pass chooses from, the best first; the last one refuses nothing."""
ASKED_FOR_BACKWARD: tuple[BackwardPath, ...] = (FusedBackward(), HopperBackward())
"""Paths that take more where a config names them."""


@functools.lru_cache(MOST_PLANS)
def backward_plan_of(values: tuple[Any, ...]) -> Plan:
    """The plan of a backward call's values, as `as_backward_values` gives them; a function of them alone."""
    problem, config = check_backward(values), values[0][-1]
    _check_device(problem.device)
    sizes = problem.forward.heads * problem.forward.Nq * problem.forward.Nk
    if sizes and AUTOTUNE in (backward_half(config), config):
        return tuned_plan(problem, [path for path in BACKWARD_PATHS if path.refusal(problem) is None])
    path, tile = choose_backward(problem, config)
    return path.plan(problem, tile)


def choose_backward(problem: BackwardProblem, config: TileConfig | str | None) -> tuple[BackwardPath, str | None]:
    """The path of a backward problem and its tile, None for the path's own default.

    TypeError or ValueError for a config that cannot be read, NotImplementedError for a path that refuses the problem.
    """
    named, tile = parse_backward(backward_half(config))
    if named is not None:
        reason = named.refusal(problem)
        if reason is not None:
            raise NotImplementedError(f"config {str(config)!r} does not take this call's backward: {reason}")
        return named, tile
    paths = BACKWARD_PATHS
    if backward_half(config) is None and config != AUTOTUNE:
        forward, tile = parse_config(config)
        if forward is PORTABLE:
            return PORTABLE_BACKWARD, tile and PORTABLE_BACKWARD.like(problem, TileConfig.parse(tile))
        if forward is not None:
            # Who names a path wants its bits, and those every time.
            problem = replace(problem, deterministic=True)
            paths = (*(path for path in ASKED_FOR_BACKWARD if path.name == forward.name), *paths)
    return first_to_take(problem, paths), None


def backward_half(config: TileConfig | str | None) -> str | None:
    """What stands after the slash of a config, None without one."""
    return config.partition("/")[2] if isinstance(config, str) and "/" in config else None


def parse_backward(half: str | None) -> tuple[BackwardPath | None, str | None]:
    """The path that the second half of a config names and its tile, None for either where the half leaves it open.

    Bare tiles, as "64x128x8x2+128x64x8x2", are the portable path's; ValueError for what cannot be read.
    """
    if half is None or half == AUTOTUNE:
        return None, None
    name, _, tile = half.partition(":")
    for path in (*ASKED_FOR_BACKWARD, *BACKWARD_PATHS):
        if path.name == name:
            return path, tile or None
    BackwardTiles.parse(half)
    return PORTABLE_BACKWARD, half


def first_to_take(problem: BackwardProblem, paths: tuple[BackwardPath, ...]) -> BackwardPath:
    """The first path that does not refuse the problem; each reason of the others is logged once, at INFO."""
    for path in paths:
        reason = path.refusal(problem)
        if reason is None:
            return path
        _log_refusal(f"{path.name} backward", reason)
    raise AssertionError("the portable path refuses nothing")
