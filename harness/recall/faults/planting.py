"""Plants a fault in a copy of our Triton kernel's source and imports the copy under a name of its own."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import harness
from harness.subject.declaration import DECLARATION
from strategies.tensors import memory_of

KERNEL = Path(harness.__file__).parent.parent / "kernel"
"""Our kernel's source, found beside this package: the name `kernel` may be a user's own package."""

_TALLEST_TILE = 256
_numbers = itertools.count()


class AnchorLost(Exception):
    """The text that an edit replaces no longer stands once in the kernel: the edit must follow the kernel."""


@dataclass(frozen=True)
class Edit:
    """In one file of the kernel, `old`, which stands there `times` times, becomes `new`."""

    file: str
    old: str
    new: str
    times: int = 1


def plant(id: str, edits: Sequence[Edit]) -> Callable[..., Any]:
    """Return `flash_attention` of a fresh copy of the kernel with the edits applied. Raises AnchorLost."""
    package = f"planted_{next(_numbers)}_{re.sub(r'[^a-z0-9]', '_', id)}"
    folder = Path(_workshop().name) / package
    shutil.copytree(KERNEL, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for each in edits:
        path = folder / each.file
        path.write_text(edited(id, path.read_text(), each))
    return _import(package, folder).flash_attention  # type: ignore[no-any-return]


def edited(id: str, source: str, edit: Edit) -> str:
    """The source after an edit. Raises AnchorLost where its text does not stand there as often as it says."""
    found = source.count(edit.old)
    if found != edit.times or edit.old == edit.new:
        raise AnchorLost(
            f"{id}: the text to replace must stand {edit.times} times in {edit.file} and change there, "
            f"it stands {found} times: {edit.old!r}"
        )
    return source.replace(edit.old, edit.new)


def _import(package: str, folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def _workshop() -> tempfile.TemporaryDirectory[str]:
    """Where the copies lie until the process ends: Triton reads a kernel's source again when it compiles it."""
    return tempfile.TemporaryDirectory(prefix="flashattest-faults-")


def pinned(attention: Callable[..., Any], config: str) -> Callable[..., Any]:
    """The same function with one tile configuration, which can no longer be asked for."""

    def at_config(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool | str = False,
        scale: float | None = None,
        seqlens_k: Tensor | None = None,
        return_lse: bool = False,
    ) -> Any:
        features = {"scale": scale, "seqlens_k": seqlens_k, "return_lse": return_lse}
        return attention(q, k, v, causal=causal, **features, config=config)

    declared = {name: value for name, value in getattr(attention, DECLARATION).items() if name != "configs"}
    setattr(at_config, DECLARATION, declared)
    return at_config


def with_slack(attention: Callable[..., Any]) -> Callable[..., Any]:
    """The same function on copies of q, k and v that NaN follows for as far as a wrong address may reach.

    What a fault reads past a tensor is then the same on every run, and never ends the process. So it is with dO.
    """

    @functools.wraps(attention)
    def roomy(q: Tensor, k: Tensor, v: Tensor, *args: Any, **features: Any) -> Any:
        strides = [tensor.stride() for tensor in (q, k, v)]
        copies = (_Roomy.apply(tensor, strides) for tensor in (q, k, v))  # type: ignore[no-untyped-call]
        found = attention(*copies, *args, **features)
        O, *rest = found if isinstance(found, tuple) else (found,)
        O = _RoomyGradient.apply(O, [O.stride(), *strides])  # type: ignore[no-untyped-call]
        return (O, *rest) if rest else O

    return roomy


class _Roomy(torch.autograd.Function):
    """A copy that has room, of a tensor whose gradient is the copy's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strides: Sequence[tuple[int, ...]]) -> Tensor:
        """The copy."""
        return _with_room(x, strides)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient as it is."""
        return gradient, None


class _RoomyGradient(torch.autograd.Function):
    """A tensor as it is, whose gradient is handed on as a copy that has room."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strides: Sequence[tuple[int, ...]]) -> Tensor:
        """The tensor."""
        ctx.strides = strides
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The copy of the gradient."""
        return _with_room(gradient, [gradient.stride(), *ctx.strides]), None


def _with_room(tensor: Tensor, strides: Sequence[tuple[int, ...]]) -> Tensor:
    """A copy of the tensor's whole storage, and after it NaN enough to be read under any of the strides."""
    B, H, N, d = tensor.shape
    sizes = (B, H, N + _TALLEST_TILE, d + _TALLEST_TILE)
    room = max(sum(n * s for n, s in zip(sizes, each, strict=True)) for each in strides)
    memory = memory_of(tensor)
    longer = torch.cat((memory, memory.new_full((room,), float("nan"))))
    return longer.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
