"""The backward pass: strides, offsets, head groups, and whose LSE and δ it is."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Differentiable, Saved
from harness.recall.faults.blocks import dense_strides, reread
from harness.recall.faults.registry import GRADIENT, fault
from harness.recall.faults.witness import gradients
from strategies.tensors import memory_of

_READS = GRADIENT | {"out_of_bounds"}
_WRAPS = 1 << 14


@fault(
    "L",
    "dout-noncontiguous",
    "https://github.com/Dao-AILab/flash-attention/issues/355",
    expects=_READS,
    witness=gradients(2, 2, Hq=2, Hk=2, dO="bshd"),
)
class DOAtStridesOfO(Differentiable):
    """dO is addressed with O's strides."""

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        return reread(dO, saved.O.stride())


@fault("L", "dout-stride-0", expects=_READS, witness=gradients(2, 2, dO="expanded_all"))
class DOExpanded(Differentiable):
    """A dO of stride 0, as sum() hands it over, is read as if it were contiguous."""

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        return reread(dO, dense_strides(dO)) if 0 in dO.stride() else dO


@fault("L", "dout-unit-stride-in-delta", expects=_READS, witness=gradients(2, 2, dO="column_major"))
class DeltaOfOtherStrides(Differentiable):
    """δ takes the last stride of dO for 1; the main pass does not."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return super().delta(reread(dO, (*dO.stride()[:3], 1)), saved)


@fault(
    "J",
    "dout-stride-int32",
    "https://github.com/Dao-AILab/flash-attention/issues/2611",
    expects=_READS,
    witness=gradients(257, 1, 64, B=2),
)
class NarrowOffset(Differentiable):
    """The offset of a head of dO wraps at 2^14 elements (a stand-in for 2^31)."""

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        B, H, N, d = dO.shape
        b, h, n, one = dO.stride()
        if (B - 1) * b + (H - 1) * h < _WRAPS:
            return dO
        memory, first = memory_of(dO), dO.storage_offset()
        places = [(i * b + j * h) % _WRAPS for i in range(B) for j in range(H)]
        heads = [memory.as_strided((N, d), (n, one), first + place) for place in places]
        return torch.stack(heads).reshape(dO.shape)


@fault(
    "L",
    "dq-uses-q-strides",
    "https://github.com/ROCm/flash-attention/pull/122",
    expects=GRADIENT,
    witness=gradients(2, 2, Hq=2, Hk=2, layout=("bshd", "contiguous", "contiguous")),
)
class DQLikeQ(Differentiable):
    """dQ is written contiguously into memory that has Q's strides."""

    def store_dq(self, dQ: Tensor, saved: Saved) -> Tensor:
        return super().store_dq(dQ, saved).contiguous().as_strided(dQ.shape, torch.empty_like(saved.q).stride())


@fault(
    "L",
    "dk-at-v-strides",
    expects=GRADIENT,
    witness=gradients(2, 2, Hq=2, Hk=2, layout=("contiguous", "contiguous", "bshd")),
)
class DKLikeV(Differentiable):
    """dK is written with K's strides into memory that was made like V."""

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        written = torch.empty_like(saved.k).copy_(dK)
        return reread(written, torch.empty_like(saved.v).stride())


@fault(
    "R",
    "flex-kgrad-slice",
    "https://github.com/pytorch/pytorch/issues/146377",
    expects=GRADIENT | {"history_dependent", "not_repeatable"},
    witness=gradients(2, 2, Hq=2, Hk=2, history=("other_layout",)),
)
class DKOfFirstLayout(Differentiable):
    """dK has the strides that the first K of its shape had."""

    def __init__(self) -> None:
        self._strides: dict[torch.Size, tuple[int, ...]] = {}

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        written = torch.empty_like(saved.k).copy_(dK)
        return reread(written, self._strides.setdefault(dK.shape, written.stride()))


@fault(
    "N",
    "gqa-dkv-not-summed",
    "https://github.com/marin-community/levanter/pull/449",
    expects=GRADIENT,
    witness=gradients(1, 2, Hq=2),
)
class LastHeadOfGroup(Differentiable):
    """dK and dV of a group are those of its last query head: each stores over the one before."""

    def group_sum(self, x: Tensor, Hk: int, saved: Saved) -> Tensor:
        B, Hq, Nk, d = x.shape
        return x.reshape(B, Hk, Hq // Hk, Nk, d)[:, :, -1]


@fault("N", "dkv-of-query-heads", "https://github.com/marin-community/levanter/pull/449", expects=GRADIENT | {"raised"},
       witness=gradients(1, 2, Hq=4, Hk=2))  # fmt: skip
class PerQueryHead(Differentiable):
    """dK and dV come back for each query head, and autograd says so where it cannot add them up by itself."""

    def group_sum(self, x: Tensor, Hk: int, saved: Saved) -> Tensor:
        return x


@fault("N", "dkv-group-by-modulo", expects=GRADIENT, witness=gradients(1, 2, Hq=4, Hk=2))
class GroupByModulo(Differentiable):
    """Query head h is added to KV head h % Hk."""

    def group_sum(self, x: Tensor, Hk: int, saved: Saved) -> Tensor:
        B, Hq, Nk, d = x.shape
        return x.reshape(B, Hq // Hk, Hk, Nk, d).sum(1)


@fault(
    "Y",
    "lse-of-batch-0",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    expects=GRADIENT,
    witness=gradients(1, 2, B=2),
)
class LSEOfFirst(Differentiable):
    """P is made again with batch entry 0's LSE for all: about the same where all inputs are randn."""

    def saved_lse(self, saved: Saved) -> Tensor:
        LSE = super().saved_lse(saved)
        return LSE[:1].expand_as(LSE)


@fault(
    "Y",
    "delta-of-batch-0",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    expects=GRADIENT,
    witness=gradients(1, 2, B=2),
)
class DeltaOfFirst(Differentiable):
    """δ is batch entry 0's for all."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        delta = super().delta(dO, saved)
        return delta[:1].expand_as(delta)


@fault("Y", "delta-of-kv-head", expects=GRADIENT, witness=gradients(1, 2, Hq=2))
class DeltaOfGroup(Differentiable):
    """δ is found by KV head: all query heads of a group have that of its first."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        delta, group = super().delta(dO, saved), saved.q.shape[1] // saved.k.shape[1]
        return delta[:, ::group].repeat_interleave(group, dim=1)


@fault(
    "R",
    "bwd-block-neq-fwd-block",
    "https://github.com/triton-lang/triton/pull/2020",
    expects=GRADIENT,
    witness=gradients(33, 2),
)
class DeltaOfForwardGrid(Differentiable):
    """δ is made in tiles of 32 rows by as many programs as the forward pass has tiles of 64."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        right = super().delta(dO, saved)
        written = -(-right.shape[2] // 64) * 32
        delta = torch.empty(right.shape, dtype=right.dtype, device=right.device)
        delta[:, :, :written] = right[:, :, :written]
        return delta


@fault("K", "dkv-grid-clamped", "https://github.com/flashinfer-ai/flashinfer/issues/3125", expects=GRADIENT,
       witness=gradients(1, 1, 1, B=2, Hq=65, Hk=65))  # fmt: skip
class GridClamped(Differentiable):
    """The grid of dK and dV ends at 64 heads (a stand-in for 65,535); the rest is not written."""

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        return self._clamped(super().store_dk(dK, saved))

    def store_dv(self, dV: Tensor, saved: Saved) -> Tensor:
        return self._clamped(super().store_dv(dV, saved))

    def _clamped(self, x: Tensor) -> Tensor:
        written = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        written.flatten(0, 1)[:64] = x.flatten(0, 1)[:64]
        return written
