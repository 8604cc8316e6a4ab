"""Memory that tells on who touches it: NaN in fresh tensors, and a memory of what the inputs held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ALLOCATORS = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_strided,
        torch.empty_permuted,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    }
)


class PoisonedAllocations(TorchFunctionMode):
    """While it is entered, what `torch.empty` and its kin return holds NaN: what is never written shows."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call through, and fill what an allocator returned."""
        result = func(*args, **(kwargs or {}))
        if func in _ALLOCATORS and result.is_floating_point():
            result.fill_(float("nan"))
        return result


class Snapshot:
    """The bytes of the storages behind some tensors, guard bands and gaps between rows included."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._before = [_words(tensor).clone() for tensor in self._tensors]

    def changed(self) -> list[int]:
        """Positions of the tensors whose own elements changed."""
        return [i for i, before in enumerate(self._before) if not self._same(i, before, own=True)]

    def changed_outside(self) -> list[int]:
        """Positions of the tensors around whose elements memory changed: guard bands, gaps between rows."""
        return [i for i, before in enumerate(self._before) if not self._same(i, before, own=False)]

    def _same(self, position: int, before: Tensor, own: bool) -> bool:
        tensor = self._tensors[position]
        now = _words(tensor)
        if torch.equal(now, before):
            return True
        differs = (now.view(torch.uint8) != before.view(torch.uint8)).view(-1, tensor.element_size()).any(dim=1)
        is_own = torch.zeros_like(differs)
        is_own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
        return not bool((differs & (is_own if own else ~is_own)).any())


def _words(tensor: Tensor) -> Tensor:
    """The whole storage behind a tensor, as words of 8 bytes, which compare faster, or bytes where they do not fit."""
    storage = tensor.untyped_storage()
    dtype = torch.uint8 if storage.nbytes() % 8 else torch.int64
    return torch.empty(0, dtype=dtype, device=tensor.device).set_(storage)
