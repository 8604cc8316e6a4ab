"""What a pass is planned from: a call's values, checked, and no tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Needs = tuple[bool, bool, bool]
"""Which of dQ, dK and dV are wanted."""


@dataclass(frozen=True)
class Problem:
    """A checked forward call.

    alignment: of the diagonal, None where not causal. strides: of q, k and v in elements, 0 where the dimension has one
    entry. aligned: whether the data pointers of q, k and v are multiples of 16 bytes. seqlens_dtype, seqlens_stride:
    those of seqlens_k, None and 0 without it.
    """

    B: int
    Hq: int
    Hk: int
    Nq: int
    Nk: int
    d: int
    alignment: str | None
    scale: float
    dtype: torch.dtype
    device: torch.device
    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    aligned: tuple[bool, bool, bool]
    seqlens_dtype: torch.dtype | None
    seqlens_stride: int

    @property
    def causal(self) -> bool:
        """Whether there is a diagonal."""
        return self.alignment is not None

    @property
    def group(self) -> int:
        """Query heads per head of k and v."""
        return self.Hq // self.Hk if self.Hk else 1

    @property
    def heads(self) -> int:
        """Query heads of the whole batch."""
        return self.B * self.Hq


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
