"""Launching a Triton kernel again and again with as little Python as Triton allows.

`JITFunction.run` binds, types and hashes every argument on every call: tens of microseconds for a kernel of forty. When
a plan is made all of our arguments are known but the tensors, so the first launch goes through Triton, and later ones
straight to the launcher of the kernel that it compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from triton import knobs
from triton.compiler import CompiledKernel

DIRECT = triton.__version__.startswith(("3.6.", "3.7."))
"""Whether this Triton's `CompiledKernel.run` is known to take grid, stream, function, metadata, hooks and arguments."""


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make the device the current one, if it is one of CUDA's."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@dataclass
class Launch:
    """A kernel with its grid and all arguments bound but the first ones, which are tensors or None.

    The compiled kernel is kept, so whatever is passed must specialise to the same kernel: the same dtypes, None in the
    same places, and addresses and integers named in `do_not_specialize`.

    Args:
        kernel: a `triton.jit` function, compiled or interpreted.
        grid: one to three sizes.
        arguments: all arguments after the tensors, constexprs too, in the order of the signature.
        options: num_warps, num_stages and the like.
        device: where the tensors are.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    device: torch.device
    _direct: Callable[..., None] | None = field(default=None, init=False, compare=False, repr=False)

    def __call__(self, *tensors: torch.Tensor | None) -> None:
        """Launch on the device's current stream."""
        if self.device.type != "cuda" or self.device.index == torch.cuda.current_device():
            self._launch(tensors)
        else:
            with on(self.device):
                self._launch(tensors)

    def _launch(self, tensors: tuple[torch.Tensor | None, ...]) -> None:
        if self._direct is None or _is_watched():
            compiled = self.kernel[self.grid](*tensors, *self.arguments, **self.options)
            self._direct = self._direct or direct(compiled, self.grid, self.device)
        else:
            # An address spares the launcher a look-up of the pointer; that it is of the device was checked before.
            self._direct([x if x is None else x.data_ptr() for x in tensors], self.arguments)


def direct(
    compiled: object, grid: tuple[int, ...], device: torch.device
) -> Callable[[list[int | None], tuple[Any, ...]], None] | None:
    """What launches a compiled kernel on addresses and the other arguments, or None where this Triton is not known."""
    if not (DIRECT and isinstance(compiled, CompiledKernel)):
        return None
    sizes = (*grid, 1, 1)[:3]
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    stream_of, index = triton.runtime.driver.active.get_current_stream, device.index

    def launch(addresses: list[int | None], arguments: tuple[Any, ...]) -> None:
        run(*sizes, stream_of(index), function, metadata, None, None, None, *addresses, *arguments)

    return launch


def _is_watched() -> bool:
    """Whether a profiler's hooks want to see each launch, as Triton shows it to them."""
    hooks = (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)
    return any(getattr(hook, "calls", hook) for hook in hooks)
