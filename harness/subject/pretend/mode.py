"""Tensors of the CPU that say that they are on CUDA, and calls that place tensors on CUDA, which stay on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
_NAME = re.compile(r"cuda(:\d+)?")

ACTIVE: list[CudaTensors] = []
"""The mode while the device is pretended: an operator enters it again, since torch leaves all modes to call one."""

_ANSWERS: dict[Any, Callable[..., Any]] = {
    Tensor.is_cuda.__get__: lambda tensor: True,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda tensor: False,  # type: ignore[attr-defined]
    Tensor.get_device: lambda tensor: 0,
    Tensor.cuda: lambda tensor, *how, **named: tensor,
    Tensor.cpu: lambda tensor, *how, **named: tensor.clone(),
    Tensor.pin_memory: lambda tensor, *how, **named: tensor,
    Tensor.record_stream: lambda tensor, stream: None,
}


class CudaTensors(TorchFunctionMode):
    """While it is entered, every tensor says that it is on CUDA."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer what asks for the device; call anything else through, on the CPU."""
        kwargs = kwargs or {}
        if func in _ANSWERS:
            return _ANSWERS[func](*args, **kwargs)
        if func == Tensor.device.__get__:
            place = func(*args)
            return CUDA if place.type == "cpu" else place
        if func is torch.device:
            return func(*args, **kwargs)
        on_cpu = {name: "cpu" if name == "device" and _is_number(value) else value for name, value in kwargs.items()}
        return func(*map(_on_cpu, args), **{name: _on_cpu(value) for name, value in on_cpu.items()})


def _on_cpu(value: Any) -> Any:
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    return "cpu" if is_cuda or (isinstance(value, str) and _NAME.fullmatch(value)) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
