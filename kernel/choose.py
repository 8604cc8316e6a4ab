"""Which path takes a call: the first of `PATHS` that does not refuse it, or the one that `config` names.

A plan is computed from a call's values alone (`arguments.Call`) and kept under the same values: there is nothing else
that it could be out of date with.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from .call.arguments import Problem, as_call, as_values, check
from .call.launch import INTERPRETED
from .call.plan import Path, Plan
from .hopper.forward import WORTH_IT as MANY_ROWS
from .hopper.forward import Hopper
from .portable.decode import WORTH_IT as MANY_KEYS
from .portable.decode import Decode
from .portable.forward import Portable
from .tiles.config import TileConfig
from .tiles.tuning import AUTOTUNE, tuned_plan

PORTABLE = Portable()
PATHS: tuple[Path, ...] = (
    Hopper(MANY_ROWS),
    *(() if INTERPRETED else (Decode(MANY_KEYS, fp32=False),)),
    PORTABLE,
)
"""What `config=None` and "autotune" choose from, the best first; the last one refuses nothing.

Interpreted, parts do not run side by side, so there is nothing in which the decode path is better."""
ASKED_FOR: tuple[Path, ...] = (Decode(), Hopper())
"""Paths that run where `config` names them alone, and those that take more where it does."""
MOST_PLANS = 4096
logger = logging.getLogger("flashattest.kernel")


def plan_for(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
) -> Plan:
    """The plan of a call, one of the `MOST_PLANS` last used or a new one; the values of seqlens_k are not looked at.

    The errors are those of `kernel.flash_attention`.
    """
    values = as_values(q, k, v, causal, seqlens_k, scale, config)
    try:
        return plan_of(values)
    except TypeError:
        # A wrong type, or a value that cannot be hashed, which is a wrong type too.
        return plan_of.__wrapped__(values)


@functools.lru_cache(MOST_PLANS)
def plan_of(values: tuple[Any, ...]) -> Plan:
    """The plan of a call's values, as `arguments.as_values` gives them; a function of them alone."""
    call = as_call(values)
    return planned(check(call), call.config)


def planned(problem: Problem, config: TileConfig | str | None) -> Plan:
    """The plan of a problem; TypeError, ValueError and NotImplementedError are those of `choose`."""
    if isinstance(config, str) and forward_half(config) == AUTOTUNE:
        _check_device(problem.device)
        plan = functools.partial(tuned_plan, problem, [path for path in PATHS if path.refusal(problem) is None])
    else:
        path, tile = choose(problem, config)
        plan = functools.partial(path.plan, problem, tile)
    if problem.heads == 0 or problem.Nq == 0:
        return Plan("", "", _do_nothing)
    return plan()


def choose(problem: Problem, config: TileConfig | str | None) -> tuple[Path, str | None]:
    """The path of a problem and its tile, None for the path's own default.

    TypeError or ValueError for a config that cannot be read, NotImplementedError for a path that refuses the problem.
    """
    _check_device(problem.device)
    named, tile = parse_config(config)
    if named is None:
        return first_to_take(problem), tile
    reason = named.refusal(problem)
    if reason is not None:
        raise NotImplementedError(f"config {str(config)!r} does not take this call: {reason}")
    return named, tile


def first_to_take(problem: Problem) -> Path:
    """The first path that does not refuse the problem; each reason of the others is logged once, at INFO."""
    for path in PATHS:
        reason = path.refusal(problem)
        if reason is None:
            return path
        _log_refusal(path.name, reason)
    raise AssertionError("the portable path refuses nothing")


def parse_config(config: TileConfig | str | None) -> tuple[Path | None, str | None]:
    """The path that a config names and its tile, None for either where the config leaves it open.

    A bare tile, as "64x64x4x3" or a `TileConfig`, is one of the portable path.
    """
    config = forward_half(config)
    if config is None:
        return None, None
    if isinstance(config, TileConfig):
        return PORTABLE, str(config)
    if not isinstance(config, str):
        raise TypeError(f"config must be None, a string or a TileConfig, got {type(config).__name__}")
    name, _, tile = config.partition(":")
    for path in (*ASKED_FOR, *PATHS):
        if path.name == name:
            return path, tile or None
    TileConfig.parse(config)
    return PORTABLE, config


def forward_half(config: TileConfig | str | None) -> TileConfig | str | None:
    """What a config says of the forward pass: all of it, or what stands before the slash."""
    if isinstance(config, str) and "/" in config:
        return config.partition("/")[0] or None
    return config


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
