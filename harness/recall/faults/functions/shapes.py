"""Faults of the shapes that kernels treat apart: decoding, long keys, large heads, expanded keys, finite masks."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.recall.faults.blocks import Causal, Task, Tiled, dense_strides, reread
from harness.recall.faults.registry import LSE, READS_OUTSIDE, fault
from harness.recall.faults.witness import case

SUNKEN = ("sunken", "sunken", "normal")


@fault("N", "decode-group-rounded-down", witness=case(1, 256, 1, Hq=5))
class GroupRoundedDown(Tiled):
    """Decoding over 256 keys or more packs a group into a power of two of rows: its other heads are not written."""

    def task(
        self, q: Tensor, k: Tensor, v: Tensor, causal: Causal, scale: float | None, seqlens_k: Tensor | None
    ) -> Task:
        group = q.shape[1] // k.shape[1]
        rows = 1 << (group.bit_length() - 1)
        decodes = q.shape[2] == 1 and k.shape[2] >= 256
        self._left = torch.arange(q.shape[1], device=q.device) % group >= (rows if decodes else group)
        return super().task(q, k, v, causal, scale, seqlens_k)

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        return super().store(O, q).masked_fill(self._left[:, None, None], float("nan"))


@fault("F", "keys-past-4096", witness=case(1, 4097, 1))
class KeysPast4096(Tiled):
    """The loop over the tiles of keys ends at 4,096 keys."""

    tile = 512

    def tiles(self, task: Task) -> Iterator[slice]:
        return (keys for keys in super().tiles(task) if keys.start < 4096)


@fault("D", "channels-past-256", witness=case(1, 2, 288), max_head_dim=576)
class ChannelsPast256(Tiled):
    """Products of Q and K leave out the channels past the 256th."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q.masked_fill(torch.arange(q.shape[3], device=q.device) >= 256, 0.0), k, v


@fault("K", "odd-query-tile-left", witness=case(129, 1, 1))
class OddQueryTileLeft(Tiled):
    """Programs take query tiles of 64 rows in pairs: of three tiles or more, an odd last one is not written."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        tiles = -(-q.shape[2] // 64)
        last = (tiles - 1) * 64 if tiles > 1 and tiles % 2 else q.shape[2]
        left = torch.arange(q.shape[2], device=q.device) >= last
        return super().store(O, q).masked_fill(left[:, None], float("nan"))


@fault("O", "lse-floor", expects=LSE, witness=case(1, 1, values=SUNKEN, return_lse=True))
class LSEFloor(Tiled):
    """LSE below -100 counts as that of a row without keys."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        found = super().lse(task, m, l)
        return found.masked_fill(found < -100, -torch.inf)


@fault("I", "finite-mask-of-1e6", witness=case(1, 2, causal=True, values=SUNKEN, seed=3))
class FiniteMask(Tiled):
    """Hidden keys score -1e6, and the scores of a row may all lie below; rows without keys are set to 0 afterwards."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        hidden = (task.columns(keys) >= task.limit) & (task.limit > 0)
        return super().hide(task, s, keys).masked_fill(hidden, -1e6)


@fault(
    "L",
    "last-key-by-dense-stride",
    expects=READS_OUTSIDE,
    witness=case(1, 17, Hq=2, Hk=2, layout=("contiguous", "expanded_heads", "contiguous")),
)
class LastKeyByDenseStride(Tiled):
    """One key past full tiles of 16 is read as if heads of stride 0 lay one after the other."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if k.shape[2] % 16 != 1 or k.shape[1] == 1 or k.stride(1) != 0:
            return q, k, v
        strides = (k.stride(0), dense_strides(k)[1], k.stride(2), k.stride(3))
        return q, torch.cat((k[:, :, :-1], reread(k, strides)[:, :, -1:]), dim=2), v


@fault("J", "head-offset-wraps", witness=case(257, 2, 256, Hq=3, Hk=3))
class HeadOffsetWraps(Tiled):
    """A head of Q that starts 2^17 elements into its batch entry (a stand-in for 2^31) is read from the first head."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        starts = torch.arange(q.shape[1], device=q.device) * (q.shape[2] * q.shape[3])
        return torch.where((starts >= 1 << 17)[:, None, None], q[:, :1], q), k, v
