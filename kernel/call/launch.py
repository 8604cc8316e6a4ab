"""Launching a Triton kernel again and again with as little Python as Triton allows.

`JITFunction.run` binds, types and hashes every argument on every call: tens of microseconds for a kernel of forty. When
a plan is made all of our arguments are known but the tensors, so the first launch goes through Triton, and later ones
straight to the launcher of the kernel that it compiled.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import triton
from triton import knobs
from triton.compiler import CompiledKernel

Direct = Callable[[tuple[Any, ...], tuple[Any, ...]], None]
_RUNTIME = knobs.runtime
DIRECT = triton.__version__.startswith(("3.6.", "3.7."))
"""Whether this Triton's `CompiledKernel.run` is known to take grid, stream, function, metadata, hooks and arguments."""
_SPECIAL = ("global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl")
_MOST_ADDRESSES = 64
INTERPRETED = bool(_RUNTIME.interpret)
"""Whether Triton's interpreter runs the kernels: TRITON_INTERPRET was set when this was imported."""


class Describes(Protocol):
    """Makes the descriptors by which a kernel reaches tensors that differ only in their address."""

    def of(self, x: torch.Tensor) -> Any:
        """Triton's descriptor of a tensor, which has it as `base`."""
        ...


@dataclass
class Launch:
    """A kernel with its grid and all arguments bound but the first ones: tensors or None.

    The compiled kernel is kept, so whatever is passed must specialise to the same kernel: the same dtypes, None in the
    same places, and addresses and integers named in `do_not_specialize`.

    Args:
        kernel: a `triton.jit` function, compiled or interpreted.
        grid: one to three sizes.
        arguments: all arguments after the tensors, constexprs too, in the order of the signature.
        options: num_warps, num_stages and the like.
        device: where the tensors are.
        blocks: for each of the first tensors, what makes the descriptor that the kernel takes for it.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    device: torch.device
    blocks: tuple[Describes, ...] = ()
    _direct: Direct | None = field(default=None, init=False, compare=False, repr=False)

    def __call__(self, *tensors: Any) -> None:
        """Launch on the device's current stream."""
        if self._direct is None or _is_watched():
            self._through_triton(tensors)
        elif self.device.index == torch.cuda.current_device():
            self._direct(tensors, self.arguments)
        else:
            with on(self.device):
                self._direct(tensors, self.arguments)

    def _through_triton(self, tensors: tuple[Any, ...]) -> None:
        with on(self.device):
            compiled = self.kernel[self.grid](*described(self.blocks, tensors), *self.arguments, **self.options)
        if DIRECT and isinstance(compiled, CompiledKernel):
            self._direct = direct(compiled, self.grid, self.device, self.blocks)


def described(blocks: tuple[Describes, ...], tensors: tuple[Any, ...]) -> list[Any]:
    """The tensors, the first ones by their descriptors."""
    return [*(block.of(x) for block, x in zip(blocks, tensors, strict=False)), *tensors[len(blocks) :]]


def direct(
    compiled: CompiledKernel, grid: tuple[int, ...], device: torch.device, blocks: tuple[Describes, ...] = ()
) -> Direct:
    """What launches a compiled kernel on tensors and other arguments, where `device` is the current one."""
    x, y, z = (*grid, 1, 1)[:3]
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    stream_of, index = triton.runtime.driver.active.get_current_stream, device.index

    def launch(tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        # Given addresses, the launcher does not ask the driver whether they are the device's: the plan's checks did.
        addresses = _addresses(described(blocks, tensors) if blocks else tensors)
        run(x, y, z, stream_of(index), function, metadata, None, None, None, *addresses, *arguments)

    expanded = _expanded(run, blocks) if blocks else None
    if expanded is None:
        return launch
    launcher, expand = expanded

    def launch_expanded(tensors: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        hooks = no_scratch = (None, None)
        launcher(
            *(x, y, z, stream_of(index), function, False, False, *no_scratch, metadata, None, *hooks),
            *expand(tensors),
            *arguments,
        )

    return launch_expanded


def _addresses(tensors: Iterable[Any]) -> list[Any]:
    """Of tensors; what else there is stays as it is."""
    return [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in tensors]


def _expanded(
    run: Any, blocks: tuple[Describes, ...]
) -> tuple[Callable[..., None], Callable[[tuple[Any, ...]], list[Any]]] | None:
    """For a kernel that takes descriptors of tensors, its launcher in C, and what makes its arguments of tensors.

    Triton 3.6 encodes each descriptor on each launch; here the last ones are kept, by address. None for a kernel that
    Triton itself must launch.
    """
    inside = inspect.getclosurevars(run.launch).nonlocals if inspect.isfunction(getattr(run, "launch", None)) else {}
    known = {"launcher", "tensordesc_indices", "tensordesc_meta"} <= inside.keys()
    plain = not any(getattr(run, name, True) for name in _SPECIAL)
    if not (known and plain and triton.__version__.startswith("3.6.")):
        return None
    if sorted(inside["tensordesc_indices"]) != list(range(len(blocks))):
        return None
    metas = inside["tensordesc_meta"]
    encoders = [functools.partial(_encoded, block, meta, {}) for block, meta in zip(blocks, metas, strict=True)]

    def expand(tensors: tuple[Any, ...]) -> list[Any]:
        found: list[Any] = []
        for encode, x in zip(encoders, tensors, strict=False):
            found += encode(x)
        return found + _addresses(tensors[len(encoders) :])

    return inside["launcher"], expand


def _encoded(block: Describes, meta: Mapping[str, Any], kept: dict[int, list[Any]], x: torch.Tensor) -> list[Any]:
    """What the launcher takes for a descriptor; but for its address, a launch's descriptors are always the same."""
    from triton.backends.nvidia.driver import make_tensordesc_arg

    address = x.data_ptr()
    if address not in kept:
        if len(kept) >= _MOST_ADDRESSES:
            kept.clear()
        kept[address] = make_tensordesc_arg(block.of(x), meta)
    return kept[address]


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make the device the current one, if it is one of CUDA's."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _is_watched() -> bool:
    """Whether a profiler's hooks, chains of them or single ones, want to see launches as Triton shows them."""
    enter, leave = _RUNTIME.launch_enter_hook, _RUNTIME.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))
