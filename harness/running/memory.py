"""Memory that tells on who touches it: NaN in fresh tensors, bands around them, a memory of what the inputs held."""

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
"""Bytes before and after a fresh tensor: a page, so that it is aligned as well as before."""

NAN_BYTE = 0xFF
"""All bits set: a NaN in every floating dtype, and -1 in every whole one."""


@dataclass(frozen=True)
class _Allocation:
    name: str
    tensor: Tensor
    memory: Tensor

    def describe(self) -> str:
        shape, dtype = tuple(self.tensor.shape), str(self.tensor.dtype).removeprefix("torch.")
        return f"the {dtype} tensor of shape {shape} that it made with {self.name}"


class GuardedAllocations(TorchFunctionMode):
    """While it is entered, `torch.empty` and its kin hand out views into larger memory, all of it NaN.

    Shape, strides, dtype, alignment and, for `torch.zeros` and its kin, contents are those asked for. What is never
    written shows as NaN, and so does what is read beside a tensor; `written_beside` names what was written there.
    band: the byte of the bands.
    """

    def __init__(self, band: int = NAN_BYTE) -> None:
        super().__init__()
        self._band = band
        self._made: list[_Allocation] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call through, and guard what an allocator returned."""
        result = func(*args, **(kwargs or {}))
        is_fresh = func in _UNFILLED or func in _FILLED
        if is_fresh and not (kwargs and kwargs.get("out") is not None):
            return self._guarded(func, result, keeps=func in _FILLED)
        return result

    def written_beside(self) -> list[str]:
        """The tensors before or after which memory was written."""
        return [made.describe() for made in self._made if not self._is_intact(made)]

    def _guarded(self, func: Callable[..., Any], result: Tensor, keeps: bool) -> Tensor:
        if not _can_be_guarded(result):
            return result
        width = result.element_size()
        reach = sum((n - 1) * s for n, s in zip(result.shape, result.stride(), strict=True)) + 1
        memory = torch.full((2 * BAND + reach * width,), NAN_BYTE, dtype=torch.uint8, device=result.device)
        if self._band != NAN_BYTE:
            memory[:BAND] = memory[-BAND:] = self._band
        # Made at once, and not as a view of the whole: autograd keeps track of views that are written to.
        guarded = torch.empty(0, dtype=result.dtype, device=result.device)
        guarded.set_(memory.untyped_storage(), BAND // width, result.shape, result.stride())
        if keeps:
            guarded.copy_(result)
        self._made.append(_Allocation(f"torch.{func.__name__}", guarded, memory))
        return guarded

    def _is_intact(self, made: _Allocation) -> bool:
        return bool((made.memory[:BAND] == self._band).all()) and bool((made.memory[-BAND:] == self._band).all())


def _can_be_guarded(tensor: Tensor) -> bool:
    """Not what has no bytes here (empty, meta, sparse, batched by vmap), is on record for gradients, or holds bools."""
    is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type in ("cpu", "cuda")
    is_plain = is_plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return is_plain and tensor.numel() > 0 and not tensor.requires_grad and tensor.dtype is not torch.bool


class Snapshot:
    """The bytes of the storages behind some tensors, guard bands and gaps between rows included."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._before = [_words(tensor).clone() for tensor in self._tensors]

    def changes(self) -> tuple[list[int], list[int]]:
        """Positions of the tensors whose own elements changed, and of those around whose elements memory did.

        Around them are guard bands, and gaps between rows.
        """
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


def zero_beside(tensor: Tensor) -> Tensor:
    """A copy of a tensor's whole memory, laid out alike, with 0 wherever it has no element."""
    emptied = memory_of(tensor).masked_fill(~_own_elements(tensor), 0.0)
    return emptied.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _own_elements(tensor: Tensor) -> Tensor:
    """Which elements of the storage behind a tensor are its own."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    is_own = torch.zeros(elements, dtype=torch.bool, device=tensor.device)
    is_own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return is_own


def _words(tensor: Tensor) -> Tensor:
    """The whole storage behind a tensor, as words of 8 bytes, which compare faster, or bytes where they do not fit."""
    storage = tensor.untyped_storage()
    dtype = torch.uint8 if storage.nbytes() % 8 else torch.int64
    return torch.empty(0, dtype=dtype, device=tensor.device).set_(storage)
