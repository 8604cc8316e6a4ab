"""Which path takes a pass of a call: the one that `config` names, or the first that does not refuse it.

`config` covers both passes: "FORWARD/BACKWARD", of which either half may be left out, the second with its slash. A
plan depends only on a call's values (`call.arguments.Call`) and is cached under the same values, so it cannot be
out of date.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic

import torch

from .call.arguments import Asked, as_call, as_values, check, check_backward
from .call.launch import INTERPRETED
from .call.plan import P, Path, Plan
from .call.problem import BackwardProblem, Problem
from .hopper.backward import HopperBackward
from .hopper.backward_fused import FusedBackward
from .hopper.forward import WORTH_IT as MANY_ROWS
from .hopper.forward import Hopper
from .portable.backward import PortableBackward
from .portable.decode import WORTH_IT as MANY_KEYS
from .portable.decode import Decode
from .portable.forward import Portable
from .tiles.config import BackwardTiles, TileConfig
from .tiles.tuning import AUTOTUNE, tuned_plan

MOST_PLANS = 4096
logger = logging.getLogger("flashattest.kernel")


@dataclass
class Choice(Generic[P]):
    """What one pass chooses from.

    name: what a log calls the pass. call: what an error calls the call. paths: what it chooses from where a config
    leaves it open, and for "autotune", the best first; the last one refuses nothing, and a bare tile is one of its.
    asked_for: paths that run only where a config names them, and those that take more where it does. read: reads a bare
    tile, ValueError otherwise.
    """

    name: str
    call: str
    paths: tuple[Path[P], ...]
    asked_for: tuple[Path[P], ...]
    read: Callable[[str], object]

    def plan(self, problem: P, half: object, config: object) -> Plan:
        """The plan of a problem for its half of a config; the errors are those of `choose`."""
        if half == AUTOTUNE:
            return tuned_plan(problem, [path for path in self.paths if path.refusal(problem) is None])
        path, tile = self.choose(problem, half, config)
        return path.plan(problem, tile)

    def choose(self, problem: P, half: object, config: object) -> tuple[Path[P], str | None]:
        """The path of a problem and its tile, None for the path's own default; only the error needs `config`.

        TypeError or ValueError for a half that cannot be read, NotImplementedError for a path that refuses the problem.
        """
        named, tile = self.parse(half)
        if named is None:
            return self.first_to_take(problem), tile
        reason = named.refusal(problem)
        if reason is not None:
            raise NotImplementedError(f"config {str(config)!r} does not take {self.call}: {reason}")
        return named, tile

    def first_to_take(self, problem: P) -> Path[P]:
        """The first path that does not refuse the problem; each reason of the others is logged once, at INFO."""
        for path in self.paths:
            reason = path.refusal(problem)
            if reason is None:
                return path
            _log_refusal(f"{path.name}{self.name}", reason)
        raise AssertionError("the portable path refuses nothing")

    def parse(self, half: object) -> tuple[Path[P] | None, str | None]:
        """The path that half of a config names and its tile, None for either where the config leaves it open.

        A bare tile, as "64x64x4x3" or a `TileConfig`, is one of the portable path. TypeError, ValueError.
        """
        if half is None or half == AUTOTUNE:
            return None, None
        if isinstance(half, TileConfig):
            half = str(half)
        if not isinstance(half, str):
            raise TypeError(f"config must be None, a string or a TileConfig, got {type(half).__name__}")
        name, _, tile = half.partition(":")
        for path in (*self.asked_for, *self.paths):
            if path.name == name:
                return path, tile or None
        self.read(half)
        return self.paths[-1], half


FORWARD: Choice[Problem] = Choice(
    name="",
    call="this call",
    # The interpreter does not run parts of the keys in parallel, so the decode path gains nothing there.
    paths=(Hopper(MANY_ROWS), *(() if INTERPRETED else (Decode(MANY_KEYS, fp32=False),)), Portable()),
    asked_for=(Decode(), Hopper()),
    read=TileConfig.parse,
)
BACKWARD: Choice[BackwardProblem] = Choice(
    name=" backward",
    call="this call's backward",
    paths=(FusedBackward(MANY_ROWS), HopperBackward(MANY_ROWS), PortableBackward()),
    asked_for=(FusedBackward(), HopperBackward()),
    read=BackwardTiles.parse,
)


def plan_for(asked: Asked) -> Plan:
    """The plan of a call, one of the `MOST_PLANS` last used or a new one; the values of seqlens_k are not looked at.

    The errors are those of `kernel.flash_attention`.
    """
    values = as_values(asked)
    try:
        return plan_of(values)
    except TypeError:
        if _can_be_hashed(values):
            raise
    return plan_of.__wrapped__(values)


@functools.lru_cache(MOST_PLANS)
def plan_of(values: tuple[Any, ...]) -> Plan:
    """The plan of a call's values, as `as_values` gives them; it depends on nothing else."""
    call = as_call(values)
    problem, (half, _) = check(call), halves(call.config)
    _check_device(problem.device)
    if problem.heads == 0 or problem.Nq == 0:
        FORWARD.choose(problem, half, call.config)
        return Plan("", "", _do_nothing)
    return FORWARD.plan(problem, half, call.config)


@functools.lru_cache(MOST_PLANS)
def backward_plan_of(values: tuple[Any, ...]) -> Plan:
    """The plan of a backward call's values, as `as_backward_values` gives them; it depends on nothing else."""
    problem, config = check_backward(values), as_call(values[0]).config
    _check_device(problem.device)
    half = backward_half(problem, config)
    if half == AUTOTUNE and problem.forward.heads * problem.forward.Nq * problem.forward.Nk == 0:
        half = None
    return BACKWARD.plan(problem, half, config)


def halves(config: object) -> tuple[object, str | None]:
    """What a config says of the forward pass, and of the backward; None where it leaves one open."""
    if isinstance(config, str) and "/" in config:
        forward, _, backward = config.partition("/")
        return forward or None, backward
    return config, None


def backward_half(problem: BackwardProblem, config: object) -> str | None:
    """What a config says of the backward pass; without a second half, what follows from the first.

    That is autotuning, the same tile where it fits the portable backward, or the same path where it takes the problem;
    else the best path that gives the same bits in every run, as every forward path does.
    """
    forward, backward = halves(config)
    if backward is not None or forward is None:
        return backward
    if forward == AUTOTUNE:
        return AUTOTUNE
    path, tile = FORWARD.parse(forward)
    if isinstance(path, Portable):
        like = tile and PortableBackward().like(problem, TileConfig.parse(tile))
        return f"{path.name}:{like}" if like else path.name
    same = (other for other in BACKWARD.asked_for if path and other.name == path.name)
    same_bits = replace(problem, deterministic=True)
    return next(other.name for other in (*same, *BACKWARD.paths) if other.refusal(same_bits) is None)


def _can_be_hashed(values: tuple[Any, ...]) -> bool:
    try:
        hash(values)
    except TypeError:
        return False
    return True


def _check_device(device: torch.device) -> None:
    if device.type != "cuda" and not (INTERPRETED and device.type == "cpu"):
        raise ValueError(
            f"q must be on a CUDA device, got {device}: on a CPU set TRITON_INTERPRET=1 before importing kernel"
        )


@functools.lru_cache(256)
def _log_refusal(path: str, reason: str) -> None:
    logger.info("the %s path does not take some calls: %s", path, reason)


def _do_nothing(*tensors: torch.Tensor | None) -> None:
    """What runs where there is no query row."""
