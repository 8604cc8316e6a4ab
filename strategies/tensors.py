"""A case becomes tensors: values from the streams, laid out as the case says, between bands of NaN."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from strategies.case import AttentionCase, Causal, TensorSpec
from strategies.layouts import GRADIENT_LAYOUTS, Placement, Shape
from strategies.values import FAMILIES, Role, Stream

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GUARD = 64
"""Elements of NaN before and after every tensor; a multiple of 16 bytes, so that alignment is the layout's alone."""


@dataclass(frozen=True)
class Problem:
    """The tensors of a case with what is asked of them: all that an oracle needs.

    q (B, Hq, Nq, d), k and v (B, Hk, Nk, d) of one dtype; seqlens_k int32 (B,) or None. Scores are scale * q @ k^T.
    Where gradients are asked for: dO (B, Hq, Nq, d) of that dtype, dLSE fp32 (B, Hq, Nq) or None, and the names of
    the inputs that need one.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    causal: Causal
    scale: float
    seqlens_k: Tensor | None
    dO: Tensor | None = None
    dLSE: Tensor | None = None
    needs_grad: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The float tensors by name: q, k, v, and dO and dLSE where there are any."""
        named = {"q": self.q, "k": self.k, "v": self.v, "dO": self.dO, "dLSE": self.dLSE}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def group(self) -> int:
        """Query heads that share one head of K and V."""
        return self.q.shape[1] // self.k.shape[1]

    def visible(self) -> Tensor | None:
        """Which keys each query may see: bool, broadcasts to (B, Hq, Nq, Nk); None where all see all."""
        if not self.causal and self.seqlens_k is None:
            return None
        Nq, Nk = self.q.shape[2], self.k.shape[2]
        keys = torch.arange(Nk, device=self.q.device)
        seen = torch.ones(1, 1, 1, Nk, dtype=torch.bool, device=self.q.device)
        lengths = self._lengths()
        if self.seqlens_k is not None:
            seen = keys < lengths
        if self.causal:
            last = torch.arange(Nq, device=self.q.device)[:, None]
            shift = lengths - Nq if self.causal == "lower_right" else 0
            seen = seen & (keys <= last + shift)
        return seen

    def to(self, device: str) -> Problem:
        """The same problem on a device, bit for bit; this very one where it lies there already."""
        if self.q.device.type == device:
            return self
        lengths = None if self.seqlens_k is None else self.seqlens_k.to(device)
        return replace(self, seqlens_k=lengths, **{name: moved(t, device) for name, t in self.tensors.items()})  # type: ignore[arg-type]

    def _lengths(self) -> Tensor:
        if self.seqlens_k is None:
            return torch.full((1, 1, 1, 1), self.k.shape[2], device=self.q.device)
        return self.seqlens_k[:, None, None, None]


def build(case: AttentionCase, device: str = "cpu") -> Problem:
    """Make the tensors of a case on a device; the bits are the same on every machine."""
    shapes: dict[Role, Shape] = {"q": case.geometry.q_shape, "k": case.geometry.k_shape, "v": case.geometry.k_shape}
    q, k, v = (_tensor(case, role, shape) for role, shape in shapes.items())
    lengths = case.features.seqlens_k
    seqlens_k = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    problem = Problem(q, k, v, case.features.causal, case.scale, seqlens_k)
    return (_with_gradients(problem, case) if case.has_gradients else problem).to(device)


def _with_gradients(problem: Problem, case: AttentionCase) -> Problem:
    """The problem with what comes back through O, and through LSE where the case says so."""
    shape = case.geometry.q_shape
    dO = _tensor(case, "dO", shape)
    dLSE = None if case.dLSE is None else _tensor(case, "dLSE", (*shape[:3], 1)).squeeze(-1)
    return replace(problem, dO=dO, dLSE=dLSE, needs_grad=case.needs_grad)


def memory_of(tensor: Tensor) -> Tensor:
    """All elements of the memory that a tensor lies in, in one dimension: what lies beside its own among them."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def moved(tensor: Tensor, device: str) -> Tensor:
    """A tensor on a device, all the memory that it lies in and its layout included; itself where it lies there."""
    if tensor.device.type == device:
        return tensor
    return memory_of(tensor).to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def checksum(problem: Problem) -> str:
    """SHA-256 over the values of q, k, v, dO and dLSE in (B, H, N, d) order, their layout left out."""
    digest = hashlib.sha256()
    for tensor in problem.tensors.values():
        # Not contiguous(): it leaves a last dimension of size 1 its stride, and the view as bytes wants stride 1.
        dense = tensor.cpu().clone(memory_format=torch.contiguous_format)
        digest.update(dense.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensor(case: AttentionCase, role: Role, shape: Shape) -> Tensor:
    spec: TensorSpec = getattr(case, role)
    values = FAMILIES[spec.values](Stream.of(spec.seed, role), shape, role)
    dtype = torch.float32 if role == "dLSE" else TORCH_DTYPES[case.dtype]
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(dtype)
    placement = GRADIENT_LAYOUTS[spec.layout](shape)
    if role in ("k", "v"):
        _fill_past_end(tensor, case, placement.strides)
    return _place(tensor, placement)


def _fill_past_end(tensor: Tensor, case: AttentionCase, strides: tuple[int, int, int, int]) -> None:
    for b, first, fill in fills_past_end(case, tensor.dtype, strides):
        tensor[b, :, first:] = fill


def fills_past_end(
    case: AttentionCase, dtype: torch.dtype, strides: tuple[int, int, int, int]
) -> Iterator[tuple[int, int, float]]:
    """Yield batch entry, first row and number of what is filled where no query may see.

    Memory that an expanded layout shares with a visible key keeps its values.
    """
    fills = {"nan": float("nan"), "inf": float("inf"), "huge": torch.finfo(dtype).max}
    if case.past_end not in fills or strides[2] == 0:
        return
    for b, length in enumerate(case.lengths):
        yield b, max(case.lengths) if strides[0] == 0 else length, fills[case.past_end]


def _place(tensor: Tensor, placement: Placement) -> Tensor:
    shape = tensor.shape
    reach = sum((size - 1) * stride for size, stride in zip(shape, placement.strides, strict=True)) + 1
    size = -(-(placement.offset + max(reach, 0)) // 4) * 4 + 2 * GUARD
    buffer = torch.full((size,), float("nan"), dtype=tensor.dtype)
    sizes = [1 if stride == 0 else n for n, stride in zip(shape, placement.strides, strict=True)]
    own = tensor[tuple(slice(0, n) for n in sizes)]
    if own.numel():
        buffer.as_strided(own.shape, placement.strides, placement.offset + GUARD).copy_(own)
    return buffer.as_strided(shape, placement.strides, placement.offset + GUARD)
