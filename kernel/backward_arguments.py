"""What a backward call says, checked: the forward call's values, and those of O, LSE and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .arguments import Operand, Problem, _short, _used_strides, as_call, as_values, check

Needs = tuple[bool, bool, bool]


@dataclass(frozen=True)
class BackwardProblem:
    """A checked backward call.

    forward: the problem that made O and LSE. needs: which of dQ, dK and dV are wanted. aligned: whether the data begin
    at a multiple of 16 bytes. strides: in elements, 0 where the dimension has one entry; dLSE_strides: None without a
    gradient of LSE. deterministic: whether every run must give the same bits.
    """

    forward: Problem
    needs: Needs
    dO_aligned: bool
    dO_strides: tuple[int, ...]
    O_aligned: bool
    O_strides: tuple[int, ...]
    dLSE_strides: tuple[int, ...] | None
    deterministic: bool = False

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.forward.device


def as_backward_values(
    dO: torch.Tensor,
    dLSE: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    O: torch.Tensor,
    LSE: torch.Tensor,
    causal: bool | str,
    seqlens_k: torch.Tensor | None,
    scale: float | None,
    config: object,
    needs: Needs,
    deterministic: bool = False,
) -> tuple[Any, ...]:
    """The forward call's values, as `arguments.as_values` has them, and those of O, LSE and their gradients.

    ValueError in one sentence for a tensor that is not strided.
    """
    forward = as_values(q, k, v, causal, seqlens_k, scale, config)
    for name, x in (("dO", dO), ("O", O), ("LSE", LSE), ("dLSE", dLSE)):
        if x is not None and x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense strided tensor, got the layout {x.layout}")
    return (
        forward,
        (
            (dO.shape, dO.stride(), dO.dtype, dO.device, dO.layout, dO.data_ptr() % 16 == 0),
            (O.shape, O.stride(), O.dtype, O.device, O.layout, O.data_ptr() % 16 == 0),
            (LSE.shape, (), LSE.dtype, LSE.device, LSE.layout, True),
            None if dLSE is None else (dLSE.shape, dLSE.stride(), dLSE.dtype, dLSE.device, dLSE.layout, True),
            needs,
            deterministic,
        ),
    )


def check_backward(values: tuple[Any, ...]) -> BackwardProblem:
    """The problem of a backward call; ValueError or TypeError in one sentence."""
    forward = check(as_call(values[0]))
    *operands, needs, deterministic = values[1]
    dO, O, LSE, dLSE = (operand and Operand(*operand) for operand in operands)
    shape = (forward.B, forward.Hq, forward.Nq, forward.d)
    for name, x in (("dO", dO), ("O", O)):
        _check(name, x, forward, shape, forward.dtype)
    for name, x in (("LSE", LSE), ("dLSE", dLSE)):
        if x is not None:
            _check(name, x, forward, shape[:3], torch.float32)
    return BackwardProblem(
        *(forward, needs, dO.aligned, _used_strides(dO), O.aligned, _used_strides(O)),
        *(_used_strides(dLSE) if dLSE else None, deterministic),
    )


def _check(name: str, x: Operand, forward: Problem, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
    if x.dtype != dtype:
        raise TypeError(f"{name} must be {_short(dtype)}, got {_short(x.dtype)}")
    if x.device != forward.device:
        raise ValueError(f"{name} must be on q's device {forward.device}, got {x.device}")
