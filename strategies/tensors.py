"""Builds a case's tensors: values from the bit streams, in the case's layouts, between guard bands of NaN."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strategies.case import AttentionCase, Features
from strategies.features import FEATURES, Role
from strategies.geometry import Geometry
from strategies.layouts import GRADIENT_LAYOUTS, Placement, Shape
from strategies.tensor_spec import TensorSpec
from strategies.values import FAMILIES, Stream

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
GUARD = 64
"""Elements of NaN before and after every tensor; a multiple of 16 bytes, so that only the layout sets the alignment."""


@dataclass(frozen=True)
class Problem:
    """The tensors and features of a case: all that an oracle needs.

    q (B, Hq, Nq, d), k and v (B, Hk, Nk, d) of one dtype. brought: the tensors that the features bring, by name,
    including `seqlens_k` int32 (B,).
    With a backward pass: dO (B, Hq, Nq, d) of q's dtype, dLSE fp32 (B, Hq, Nq) or None, and the names of the inputs
    that need a gradient.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    features: Features = field(default_factory=Features)
    brought: Mapping[str, Tensor] = field(default_factory=dict)
    dO: Tensor | None = None
    dLSE: Tensor | None = None
    needs_grad: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The float tensors of the call by name: q, k, v, and those that features bring."""
        brought = {name: tensor for name, tensor in self.brought.items() if tensor.is_floating_point()}
        return {"q": self.q, "k": self.k, "v": self.v} | brought

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The float tensors by name: the inputs, and dO and dLSE unless they are None."""
        given = {"dO": self.dO, "dLSE": self.dLSE}
        return self.inputs | {name: tensor for name, tensor in given.items() if tensor is not None}

    @property
    def scale(self) -> float:
        """The factor of the scores: the scale given, or d^-0.5."""
        return float(self.q.shape[-1] ** -0.5 if self.features.scale is None else self.features.scale)

    @property
    def seqlens_k(self) -> Tensor | None:
        """The number of keys of each batch entry, int32 (B,); None means all."""
        return self.brought.get("seqlens_k")

    @property
    def group(self) -> int:
        """Query heads that share one head of K and V."""
        return self.q.shape[1] // self.k.shape[1]

    def given(self, feature: str) -> Any:
        """Return a feature's argument: the tensor that it brings under its own name, or else its value."""
        return self.brought.get(feature, getattr(self.features, feature))

    def without_backward(self) -> Problem:
        """Return the problem of the forward pass alone."""
        return replace(self, dO=None, dLSE=None, needs_grad=())

    def with_tensors(self, changed: Mapping[str, Tensor]) -> Problem:
        """Return the problem with some of `tensors` replaced."""
        brought = {name: changed.get(name, tensor) for name, tensor in self.brought.items()}
        own = {name: tensor for name, tensor in changed.items() if name not in brought}
        return replace(self, brought=brought, **own)  # type: ignore[arg-type]

    def to(self, device: str) -> Problem:
        """Return the same problem on a device, bit for bit; itself if it is there already."""
        if self.q.device.type == device:
            return self
        whole = {name: tensor.to(device) for name, tensor in self.brought.items()}
        return replace(self, brought=whole).with_tensors({n: move(t, device) for n, t in self.tensors.items()})


def build(case: AttentionCase, device: str = "cpu") -> Problem:
    """Make the tensors of a case on a device; the bits are the same on every machine."""
    shapes: dict[str, Shape] = {"q": case.geometry.q_shape, "k": case.geometry.k_shape, "v": case.geometry.k_shape}
    q, k, v = (_tensor(case, role, shape) for role, shape in shapes.items())
    problem = Problem(q, k, v, case.features, _feature_tensors(case.features, case.geometry))
    return (_with_gradients(problem, case) if case.has_gradients else problem).to(device)


def _feature_tensors(features: Features, geometry: Geometry) -> dict[str, Tensor]:
    """Make the tensors that features bring to a problem of these sizes, on the CPU."""
    brought = {name: _of_role(name, role, geometry) for name, role in features.roles().items()}
    for name, value in features.asked().items():
        brought |= FEATURES[name].tensors(value)
    return brought


def _of_role(name: str, role: Role, geometry: Geometry) -> Tensor:
    shape = role.shape(geometry)
    B, H, N, d = (*(1,) * (4 - len(shape)), *shape)
    tensor = _values(role.spec, name, (B, H, N, d), TORCH_DTYPES[role.dtype])
    return _place(tensor, GRADIENT_LAYOUTS[role.spec.layout]((B, H, N, d)))[(0,) * (4 - len(shape))]


def _with_gradients(problem: Problem, case: AttentionCase) -> Problem:
    """Add dO, and dLSE if the case has one."""
    shape = case.geometry.q_shape
    dO = _tensor(case, "dO", shape)
    dLSE = None if case.dLSE is None else _tensor(case, "dLSE", (*shape[:3], 1)).squeeze(-1)
    return replace(problem, dO=dO, dLSE=dLSE, needs_grad=case.needs_grad)


def memory_of(tensor: Tensor) -> Tensor:
    """Return a tensor's whole storage in one dimension, including elements outside the tensor."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def move(tensor: Tensor, device: str) -> Tensor:
    """Copy a tensor to a device with its layout and its whole storage; return itself if it is there already."""
    if tensor.device.type == device:
        return tensor
    return memory_of(tensor).to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def checksum(problem: Problem) -> str:
    """SHA-256 over the values of the float tensors in (B, H, N, d) order, whatever their layout."""
    digest = hashlib.sha256()
    for tensor in problem.tensors.values():
        # Not contiguous(): it keeps the stride of a last dimension of size 1, and the view as bytes needs stride 1.
        dense = tensor.cpu().clone(memory_format=torch.contiguous_format)
        digest.update(dense.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensor(case: AttentionCase, role: str, shape: Shape) -> Tensor:
    spec: TensorSpec = getattr(case, role)
    dtype = torch.float32 if role == "dLSE" else TORCH_DTYPES[case.dtype]
    placement = GRADIENT_LAYOUTS[spec.layout](shape)
    tensor = _values(spec, role, shape, dtype)
    if role in ("k", "v"):
        _fill_past_end(tensor, case, placement.strides)
    return _place(tensor, placement)


def _values(spec: TensorSpec, role: str, shape: Shape, dtype: torch.dtype) -> Tensor:
    values = FAMILIES[spec.values](Stream.of(spec.seed, role), shape, role)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(dtype)


def _fill_past_end(tensor: Tensor, case: AttentionCase, strides: tuple[int, int, int, int]) -> None:
    for b, first, fill in fills_past_end(case, tensor.dtype, strides):
        tensor[b, :, first:] = fill


def fills_past_end(
    case: AttentionCase, dtype: torch.dtype, strides: tuple[int, int, int, int]
) -> Iterator[tuple[int, int, float]]:
    """Yield (batch entry, first row, number) for each part of K and V past the end that is filled with a number.

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
