"""Operators that a subject registers for CUDA: they run for tensors of the CPU, which say that they are on CUDA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library

from harness.interpreter.patches import Change
from harness.subject.pretend.mode import ACTIVE

_stock_impl: Callable[..., None] = Library.impl
_of_cuda: set[tuple[str, str, str]] = set()
"""Operators that run on the CPU what they have for CUDA: library, name and key."""


def changes() -> list[Change]:
    """Return what to replace in `torch.library`."""
    return [(Library, "impl", _impl), (torch.library, "wrap_triton", lambda kernel: kernel)]


def _impl(self: Any, op_name: Any, fn: Callable[..., Any], dispatch_key: str = "", **how: Any) -> None:
    """Register what is for CUDA for the CPU too, in the place of what the subject has for the CPU."""
    if _is_of_torch(fn):
        _stock_impl(self, op_name, fn, dispatch_key, **how)
        return
    key = dispatch_key or self.dispatch_key
    on_cpu = key.replace("CUDA", "CPU")
    operator = (self.ns, str(op_name).split("::")[-1], on_cpu)
    if key != "Meta":
        fn = _in_mode(fn)
    if on_cpu != key:
        _of_cuda.add(operator)
        _stock_impl(self, op_name, fn, on_cpu, **how)
    elif operator in _of_cuda:
        return
    _stock_impl(self, op_name, fn, dispatch_key, **how)


def _is_of_torch(fn: Callable[..., Any]) -> bool:
    """Whether it is torch's own, such as what lets a key fall through; `torch.library.custom_op` wraps a subject's."""
    module = getattr(fn, "__module__", None) or ""
    return module.partition(".")[0] == "torch" and not module.startswith("torch._library")


def _in_mode(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the device pretended within it, where it is around it."""

    @functools.wraps(fn)
    def call(*arguments: Any, **named: Any) -> Any:
        if not ACTIVE:
            return fn(*arguments, **named)
        with ACTIVE[-1]:
            return fn(*arguments, **named)

    return call
