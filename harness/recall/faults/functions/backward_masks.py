"""The backward pass: who sees whom, loop bounds, tails, and memory that nobody writes."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Autograd, Back, Differentiable, Saved
from harness.recall.faults.blocks import Task
from harness.recall.faults.registry import GRADIENT, fault
from harness.recall.faults.witness import gradients


def _where(condition: Tensor, x: Tensor) -> Tensor:
    """x where it is written, and what torch.empty left elsewhere."""
    return torch.where(condition, x, torch.empty(x.shape, dtype=x.dtype, device=x.device))


@fault(
    "A",
    "fa2-empty-row-dq-nan",
    "https://github.com/Dao-AILab/flash-attention/issues/443",
    expects=GRADIENT,
    witness=gradients(1, 1, seqlens_k=(0,)),
)
class EmptyRowDQ(Differentiable):
    """dQ takes LSE = -inf from scores of -inf in rows that see no key: NaN."""

    def for_dq(self, back: Back) -> Back:
        return replace(back, LSE=back.LSE.masked_fill(back.LSE.isinf(), torch.nan))

    def hide_ds(self, task: Task, dS: Tensor, keys: slice) -> Tensor:
        return dS


@fault("A", "empty-row-weighs-one", expects=GRADIENT, witness=gradients(1, 1, seqlens_k=(0,)))
class EmptyRowWeighsOne(Differentiable):
    """P = exp(S - LSE) is taken for 1 where both are -inf: rows that see no key reach dK and dV of all keys."""

    def tile_of(self, back: Back, rows: slice, keys: slice) -> tuple[Tensor, Tensor]:
        P, dS = super().tile_of(back, rows, keys)
        is_empty = back.LSE[:, :, rows] == -torch.inf
        return torch.where(is_empty, 1.0, P), torch.where(is_empty, self.dp(back, rows, keys), dS)


@fault(
    "A",
    "nan-grad-after-mask",
    "https://github.com/Xilinx/brevitas/pull/1591",
    expects=GRADIENT,
    witness=gradients(1, 1, seqlens_k=(0,)),
)
class NanAfterMask(Autograd):
    """NaN weights of rows that see no key are set to 0 after the softmax: autograd multiplies 0 by NaN."""

    def softmax(self, task: Task, s: Tensor, hidden: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        LSE = super().softmax(task, s, hidden, v)[1]
        mask = torch.zeros_like(s).masked_fill(hidden, -torch.inf)
        return (s + mask).softmax(-1).nan_to_num(0.0) @ v, LSE


@fault(
    "B",
    "bwd-align-differs",
    "https://github.com/xlite-dev/ffpa-attn/pull/300",
    expects=GRADIENT,
    witness=gradients(1, 2, causal="lower_right"),
)
class AlignDiffers(Differentiable):
    """The backward pass knows the upper-left diagonal alone."""

    def back_task(self, saved: Saved) -> Task:
        return super().back_task(replace(saved, causal=bool(saved.causal)))


@fault("B", "bwd-lower-right-of-padded-keys", expects=GRADIENT,
       witness=gradients(2, 3, causal="lower_right", seqlens_k=(2,)))  # fmt: skip
class LowerRightOfPadded(Differentiable):
    """The lower-right diagonal of dK and dV ends at Nk, and not at the length."""

    def for_dkv(self, back: Back) -> Back:
        task = back.task
        if task.causal != "lower_right":
            return back
        rows = torch.arange(task.Nq, device=task.q.device)[:, None]
        limit = torch.minimum(rows + 1 + task.Nk - task.Nq, task.lengths).clamp(min=0)
        return replace(back, task=replace(task, limit=limit))


@fault(
    "F",
    "bwd-ignores-causal",
    "https://github.com/triton-lang/triton/issues/4541",
    expects=GRADIENT,
    witness=gradients(1, 2),
)
class AlwaysCausal(Differentiable):
    """The backward pass is causal whatever was asked for."""

    def back_task(self, saved: Saved) -> Task:
        return super().back_task(replace(saved, causal=saved.causal or True))


@fault("F", "bwd-never-causal", expects=GRADIENT, witness=gradients(1, 2, causal=True))
class NeverCausal(Differentiable):
    """The backward pass sees all keys."""

    def back_task(self, saved: Saved) -> Task:
        return super().back_task(replace(saved, causal=False))


@fault("F", "dkv-diagonal-one-off", expects=GRADIENT, witness=gradients(1, 1, causal=True))
class StrictDiagonal(Differentiable):
    """dK and dV leave the diagonal itself out."""

    def for_dkv(self, back: Back) -> Back:
        limit = (back.task.limit - int(bool(back.task.causal))).clamp(min=0)
        return replace(back, task=replace(back.task, limit=limit))


@fault("C", "bwd-lengths-ignored", expects=GRADIENT, witness=gradients(1, 2, seqlens_k=(1,)))
class LengthsIgnored(Differentiable):
    """The backward pass takes the padding for keys."""

    def back_task(self, saved: Saved) -> Task:
        return super().back_task(replace(saved, seqlens_k=None))


@fault("C", "bwd-length-of-batch-0", expects=GRADIENT, witness=gradients(1, 2, B=2, seqlens_k=(1, 2)))
class LengthOfFirst(Differentiable):
    """The backward pass takes the length of batch entry 0 for all."""

    def back_task(self, saved: Saved) -> Task:
        lengths = saved.seqlens_k
        return super().back_task(
            saved if lengths is None else replace(saved, seqlens_k=lengths[:1].expand(lengths.shape[0]))
        )


@fault(
    "E",
    "bwd-seqq0-nan",
    "https://github.com/Dao-AILab/flash-attention/pull/2421",
    expects=GRADIENT,
    witness=gradients(0, 1),
)
class NoQueries(Differentiable):
    """Without queries, dK and dV return before anything is stored."""

    def dkv(self, back: Back) -> tuple[Tensor, Tensor]:
        dK, dV = super().dkv(back)
        wrote = torch.tensor(back.task.Nq > 0, device=dK.device)
        return _where(wrote, dK), _where(wrote, dV)


@fault(
    "F",
    "hidden-key-tile-unwritten",
    "https://github.com/Dao-AILab/flash-attention/pull/2421",
    expects=GRADIENT,
    witness=gradients(1, 33, causal=True),
)
class HiddenTileUnwritten(Differentiable):
    """A tile of keys that the diagonal hides from every query is left out, its 0 too."""

    def dkv(self, back: Back) -> tuple[Tensor, Tensor]:
        dK, dV = super().dkv(back)
        task = back.task
        seen_by_all = task.limit.amax() if task.limit.numel() else task.limit.new_zeros(())
        first = task.columns(slice(0, task.Nk))[:, None] // self.tile * self.tile
        wrote = (first < seen_by_all) if task.causal else torch.ones_like(first, dtype=torch.bool)
        return _where(wrote, dK), _where(wrote, dV)


@fault("W", "dkv-padding-unwritten", expects=GRADIENT, witness=gradients(1, 2, seqlens_k=(1,)))
class PaddingUnwritten(Differentiable):
    """dK and dV of the padding keep what torch.empty left there."""

    def dkv(self, back: Back) -> tuple[Tensor, Tensor]:
        dK, dV = super().dkv(back)
        wrote = back.task.columns(slice(0, back.task.Nk))[:, None] < back.task.lengths
        return _where(wrote, dK), _where(wrote, dV)


@fault(
    "W",
    "dq-of-no-keys-unwritten",
    "https://github.com/vllm-project/vllm/pull/37442",
    expects=GRADIENT,
    witness=gradients(1, 1, seqlens_k=(0,)),
)
class DQUnwritten(Differentiable):
    """A batch entry without keys returns before dQ is stored."""

    def dq(self, back: Back) -> Tensor:
        return _where(back.task.lengths > 0, super().dq(back))


@fault("C", "query-tail-counted-twice", expects=GRADIENT, witness=gradients(33, 1))
class QueryTailTwice(Differentiable):
    """The last tile of queries is moved back to be whole: dK and dV count the rows of the overlap twice."""

    def row_tiles(self, back: Back) -> Iterator[slice]:
        Nq = back.task.Nq
        return (slice(max(0, min(rows.start, Nq - self.rows)), rows.stop) for rows in super().row_tiles(back))


@fault("C", "key-tail-counted-twice", expects=GRADIENT, witness=gradients(1, 33))
class KeyTailTwice(Differentiable):
    """The last tile of keys is moved back to be whole: dQ counts the keys of the overlap twice."""

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        Nk = back.task.Nk
        return (slice(max(0, min(keys.start, Nk - self.tile)), keys.stop) for keys in self.tiles(back.task))


@fault(
    "W",
    "bwd-padding-lse-uninit",
    "https://github.com/tile-ai/tilelang/pull/2461",
    expects=GRADIENT,
    witness=gradients(1, 1),
)
class PaddedLSE(Differentiable):
    """LSE of rows past the last query is read where nobody wrote it, and meets rows of 0: 0 times NaN in dK and dV."""

    def dkv_tile(self, back: Back, keys: slice) -> tuple[Tensor, Tensor]:
        dK, dV = super().dkv_tile(back, keys)
        LSE = torch.empty(-back.task.Nq % self.rows, dtype=torch.float32, device=dK.device)
        nothing = ((-LSE).exp() * 0.0).sum()
        return dK + nothing, dV + nothing


@fault(
    "F",
    "first-row-tile-too-late",
    "https://github.com/jax-ml/jax/pull/17314",
    expects=GRADIENT,
    witness=gradients(32, 32, causal=True),
)
class StartsTooLate(Differentiable):
    """The causal loop over queries starts at the tile of the last key: too late where tiles of keys are wider."""

    rows = 16

    def rows_of_tile(self, back: Back, keys: slice) -> Iterator[slice]:
        first = (keys.stop - 1) // self.rows * self.rows if back.task.causal is True else 0
        return (rows for rows in self.row_tiles(back) if rows.start >= first)


@fault(
    "F",
    "last-key-tile-too-early",
    "https://github.com/jax-ml/jax/pull/17314",
    expects=GRADIENT,
    witness=gradients(64, 64, causal=True),
)
class EndsTooEarly(Differentiable):
    """The causal loop over keys ends at the tile of the first query: too early where tiles of queries are taller."""

    rows = 64

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        last = rows.start if back.task.causal is True else back.task.Nk
        return (keys for keys in self.tiles(back.task) if keys.start <= last)


@fault("T", "second-half-of-dims", expects=GRADIENT, witness=gradients(1, 2, 65))
class DimsOfSecondHalf(Differentiable):
    """dP is summed over the first 64 of the head dimension alone: the second half went to an accumulator of its own."""

    def dp(self, back: Back, rows: slice, keys: slice) -> Tensor:
        return back.dO[:, :, rows, :64].float() @ self.values(back.task, keys)[..., :64].mT
