"""Strides, alignment, head groups, and the form of what comes back."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import torch
from torch import Tensor

from harness.recall.faults.blocks import Output, Tiled, dense_strides, reread
from harness.recall.faults.registry import LSE, READS_OUTSIDE, fault
from harness.recall.faults.witness import case


@fault(
    "L",
    "k-at-v-strides",
    "https://github.com/flagos-ai/FlagAttention/issues/45",
    expects=READS_OUTSIDE,
    witness=case(1, 2, layout=("contiguous", "sliced", "contiguous")),
)
class SwappedStrides(Tiled):
    """K is addressed with V's strides."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, reread(k, v.stride()), v


@fault(
    "L",
    "v-taken-for-contiguous",
    expects=READS_OUTSIDE,
    witness=case(1, 2, layout=("contiguous", "contiguous", "padded_rows")),
)
class ContiguousV(Tiled):
    """V is read as if it were contiguous."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, reread(v, dense_strides(v))


@fault(
    "L",
    "output-with-q-strides",
    "https://github.com/ROCm/flash-attention/pull/122",
    witness=case(2, 2, Hq=2, Hk=2, layout=("bshd", "contiguous", "contiguous")),
)
class OutputLikeQ(Tiled):
    """O is written contiguously into memory that has Q's strides."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        like_q = torch.empty_like(q)
        return O.to(q.dtype).contiguous().as_strided(like_q.shape, like_q.stride())


@fault("L", "heads-and-rows-mixed", witness=case(2, 2, Hq=2, Hk=2, layout=("bshd", "contiguous", "contiguous")))
class HeadsAndRows(Tiled):
    """A transposed view of Q is recognised by its strides and returned without being transposed."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        is_bshd = q.stride(1) < q.stride(2) and q.shape[1] > 1
        return (O.transpose(1, 2).reshape(O.shape) if is_bshd else O).to(q.dtype)


@fault(
    "M",
    "aligned-down",
    "https://github.com/microsoft/onnxruntime/issues/28376",
    expects=READS_OUTSIDE,
    witness=case(1, 8, layout=("contiguous", "offset_by_one", "contiguous")),
)
class AlignedDown(Tiled):
    """Where Nk is a multiple of 8, K is read from the 16-byte boundary before it."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if k.shape[2] % 8 or not k.shape[2]:
            return q, k, v
        unit = 16 // k.element_size()
        return q, reread(k, k.stride(), k.storage_offset() // unit * unit), v


@fault("N", "gqa-interleaved", witness=case(1, 1, Hq=4, Hk=2))
class Interleaved(Tiled):
    """Query head h reads KV head h % Hk."""

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        return x.repeat(1, Hq // x.shape[1], 1, 1)


@fault(
    "N",
    "packed-kv-offset-q-heads",
    "https://github.com/jax-ml/jax/pull/39521",
    witness=case(1, 1, B=2, Hq=2, Hk=1),
)
class OffsetByQueryHeads(Tiled):
    """Batch entries of K and V are found at a pitch of Hq heads: the first is right, and the others wrap around."""

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        B, Hk = x.shape[:2]
        heads = torch.arange(Hq, device=x.device) // (Hq // Hk)
        places = (torch.arange(B, device=x.device)[:, None] * Hq + heads) % (B * Hk)
        return x.reshape(B * Hk, *x.shape[2:])[places]


@fault("N", "mqa-for-all-groups", witness=case(1, 1, Hq=4, Hk=2))
class FirstKVHead(Tiled):
    """Any group of more than one query head reads KV head 0."""

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        return super().per_query_head(x if x.shape[1] == Hq else x[:, :1], Hq)


@fault("L", "lse-transposed", expects=LSE, witness=case(2, 1, Hq=2, return_lse=True))
class TransposedLSE(Tiled):
    """LSE is stored as (B, Nq, Hq) and seen as (B, Hq, Nq)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool | str = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Output:  # fmt: skip
        """O, and LSE in the wrong order."""
        found = super().__call__(q, k, v, causal, scale, seqlens_k, return_lse)
        return (found[0], found[1].mT.reshape(found[1].shape)) if isinstance(found, tuple) else found


@fault("L", "decode-squeezes", expects=frozenset({"wrong_shape_or_dtype"}), witness=case(1, 1))
class Squeezed(Tiled):
    """A single query of a single batch entry comes back without the dimension of the batch."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        stored = super().store(O, q)
        return stored.squeeze(0) if q.shape[2] == 1 else stored


@fault("S", "lse-in-q-dtype", expects=frozenset({"wrong_shape_or_dtype"}), witness=case(dtype="fp16", return_lse=True))
class LSEInHalf(Tiled):
    """LSE comes back in q's dtype."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool | str = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Output:  # fmt: skip
        """O, and LSE in q's dtype."""
        found = super().__call__(q, k, v, causal, scale, seqlens_k, return_lse)
        return (found[0], found[1].to(q.dtype)) if isinstance(found, tuple) else found


@fault("M", "raises-off-alignment", expects=frozenset({"raised"}), witness=case(1, 1, 3, dtype="fp16"))
class RaisesOffAlignment(Tiled):
    """A row that is no multiple of 16 bytes fails in a view of it as whole words."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if q.shape[3] % 2 and q.dtype is torch.float16:
            q.contiguous().view(torch.int32)
        return q, k, v


@fault(
    "Y",
    "loud-heads",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    witness=case(1, 8, Hq=2, Hk=2, values="large"),
)
class LoudHeads(Tiled):
    """Where a head's keys pass 64 in size, all heads read the first one's: randn never gets there."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        is_loud = k.numel() > 0 and bool((k.float().abs() > 64).any())
        return q, k[:, :1].expand_as(k) if is_loud else k, v
