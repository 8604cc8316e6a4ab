"""Faults that take the process with them."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import ctypes
import os
import signal
import time

import torch
from torch import Tensor

from harness.recall.faults.blocks import Tiled
from harness.recall.faults.registry import fault
from harness.recall.faults.witness import case

_CRASHED = frozenset({"crashed"})


class _Trips(Tiled):
    """A function that does something else on one class of cases."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.trips(q, k):
            self.fall()
        return q, k, v

    def trips(self, q: Tensor, k: Tensor) -> bool:
        raise NotImplementedError

    def fall(self) -> None:
        raise NotImplementedError


@fault("Z", "exits", where="process", expects=_CRASHED, witness=case(1, 17))
class Exits(_Trips):
    """A tail of one key ends the process with status 3."""

    def trips(self, q: Tensor, k: Tensor) -> bool:
        return k.shape[2] % 16 == 1 and k.shape[2] > 1

    def fall(self) -> None:
        os._exit(3)


@fault("Z", "aborts", where="process", expects=_CRASHED, witness=case(1, 1, Hq=2))
class Aborts(_Trips):
    """A group of query heads aborts, as a failed device assertion does."""

    def trips(self, q: Tensor, k: Tensor) -> bool:
        return q.shape[1] > k.shape[1]

    def fall(self) -> None:
        os.abort()


@fault("Z", "segfaults", where="process", expects=_CRASHED, witness=case(1, 1, dtype="bf16"))
class Segfaults(_Trips):
    """bf16 reads address 0."""

    def trips(self, q: Tensor, k: Tensor) -> bool:
        return q.dtype is torch.bfloat16

    def fall(self) -> None:
        ctypes.string_at(0)


@fault("Z", "killed-for-memory", where="process", expects=_CRASHED, witness=case(1, 1, 129))
class Killed(_Trips):
    """A head dimension past 128 gets the process killed, as running out of memory does."""

    def trips(self, q: Tensor, k: Tensor) -> bool:
        return q.shape[3] > 128

    def fall(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@fault("Z", "hangs", where="process", expects=frozenset({"timed_out"}), witness=case(1, 0))
class Hangs(_Trips):
    """No key at all: a loop waits for a first tile that never comes."""

    def trips(self, q: Tensor, k: Tensor) -> bool:
        return k.shape[2] == 0

    def fall(self) -> None:
        while True:
            time.sleep(0.1)
