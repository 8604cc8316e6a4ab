"""Guarded memory: detects reads and writes outside a tensor, reads of uninitialised memory, and changed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from strategies.tensors import memory_of

_UNFILLED = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_strided,
        torch.empty_permuted,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    }
)
_FILLED = frozenset(
    {
        torch.zeros,
        torch.zeros_like,
        torch.ones,
        torch.ones_like,
        torch.full,
        torch.full_like,
        torch.Tensor.new_zeros,
        torch.Tensor.new_ones,
        torch.Tensor.new_full,
    }
)

BAND = 4096
"""Bytes before and after a new tensor: a page, so that its alignment is kept."""

NAN_BYTE = 0xFF
"""All bits set: a NaN in every floating dtype, and -1 in every signed integer dtype."""


@dataclass(frozen=True)
class _Allocation:
    name: str
    tensor: Tensor
    memory: Tensor

    def describe(self) -> str:
        shape, dtype = tuple(self.tensor.shape), str(self.tensor.dtype).removeprefix("torch.")
        return f"the {dtype} tensor of shape {shape} that it made with {self.name}"


class GuardedAllocations(TorchFunctionMode):
    """While active, `torch.empty` and similar functions return views into larger memory that is filled with NaN.

    Shape, strides, dtype, alignment and, for `torch.zeros` and similar functions, contents are those asked for. Reads
    of unwritten memory and reads outside a tensor give NaN; `written_outside` names tensors with writes outside.
    band: the byte that fills the guard bands.
    """

    def __init__(self, band: int = NAN_BYTE) -> None:
        super().__init__()
        self._band = band
        self._made: list[_Allocation] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and guard the tensor that an allocator returned."""
        result = func(*args, **(kwargs or {}))
        is_fresh = func in _UNFILLED or func in _FILLED
        if is_fresh and not (kwargs and kwargs.get("out") is not None):
            return self._guard(func, result, keeps=func in _FILLED)
        return result

    def written_outside(self) -> list[str]:
        """Describe the tensors with a write before or after them."""
        return [made.describe() for made in self._made if not self._is_intact(made)]

    def _guard(self, func: Callable[..., Any], result: Tensor, keeps: bool) -> Tensor:
        if not _can_be_guarded(result):
            return result
        width = result.element_size()
        reach = sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True)) + 1
        memory = torch.full((2 * BAND + reach * width,), NAN_BYTE, dtype=torch.uint8, device=result.device)
        if self._band != NAN_BYTE:
            memory[:BAND] = memory[-BAND:] = self._band
        # Not a view of the memory: autograd tracks writes to views.
        guarded = torch.empty(0, dtype=result.dtype, device=result.device)
        guarded.set_(memory.untyped_storage(), BAND // width, result.shape, result.stride())
        if keeps:
            guarded.copy_(result)
        self._made.append(_Allocation(f"torch.{func.__name__}", guarded, memory))
        return guarded

    def _is_intact(self, made: _Allocation) -> bool:
        return bool((made.memory[:BAND] == self._band).all()) and bool((made.memory[-BAND:] == self._band).all())


def _can_be_guarded(tensor: Tensor) -> bool:
    """Whether it has bytes here (not empty, meta, sparse, or batched by vmap), no gradient, and no bools."""
    is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type in ("cpu", "cuda")
    is_plain = is_plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_plain and tensor.numel() > 0 and not tensor.requires_grad and tensor.dtype is not torch.bool


class Snapshot:
    """The bytes of the storages of some tensors, including guard bands and gaps between rows."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._before = [_words(tensor).clone() for tensor in self._tensors]

    def changes(self) -> tuple[list[int], list[int]]:
        """Return the positions of tensors whose elements changed, and of those whose guard bands or row gaps did."""
        own, outside = [], []
        for position, (tensor, before) in enumerate(zip(self._tensors, self._before, strict=True)):
            now = _words(tensor)
            if torch.equal(now, before):
                continue
            differs = (now.view(torch.uint8) != before.view(torch.uint8)).view(-1, tensor.element_size()).any(dim=1)
            is_own = _own_elements(tensor)
            own += [position] if bool((differs & is_own).any()) else []
            outside += [position] if bool((differs & ~is_own).any()) else []
        return own, outside


def zero_outside(tensor: Tensor) -> Tensor:
    """Copy a tensor's whole storage, with the same layout and 0 outside its elements."""
    zeroed = memory_of(tensor).masked_fill(~_own_elements(tensor), 0.0)
    return zeroed.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _own_elements(tensor: Tensor) -> Tensor:
    """Return which elements of a tensor's storage are its own."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    is_own = torch.zeros(elements, dtype=torch.bool, device=tensor.device)
    is_own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return is_own


def _words(tensor: Tensor) -> Tensor:
    """Return a tensor's whole storage as 8-byte words, which compare faster, or as bytes if its size is no multiple."""
    storage = tensor.untyped_storage()
    dtype = torch.uint8 if storage.nbytes() % 8 else torch.int64
    return torch.empty(0, dtype=dtype, device=tensor.device).set_(storage)
