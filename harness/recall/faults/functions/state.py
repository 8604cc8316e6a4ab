"""What a call keeps for later calls, and what it does to its inputs."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.recall.faults.blocks import Causal, OneTile, Output, Task, Tiled
from harness.recall.faults.registry import HISTORY, NUMBERS, fault
from harness.recall.faults.witness import case

_ANY_CALL = NUMBERS | HISTORY
_MUTATED = frozenset({"input_mutated"})


class _Keeps(Tiled):
    """A function that keeps something."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}


@fault("R", "answer-kept-by-shape", expects=_ANY_CALL, witness=case(1, 1, history=("other_values",)))
class AnswerKept(_Keeps):
    """The answer is kept by shape and dtype, and not by values."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        key = (task.q.shape, task.k.shape, task.q.dtype)
        return self._kept.setdefault(key, super().attend(task))  # type: ignore[no-any-return]


@fault(
    "R",
    "key-without-causal",
    "https://github.com/triton-lang/triton/pull/4808",
    expects=_ANY_CALL,
    witness=case(1, 2, history=("other_causal",)),
)
class MaskKept(_Keeps):
    """The mask is kept by shape, and not by `causal`."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        found = super().limit(q, k, lengths, causal)
        return torch.minimum(lengths, self._kept.setdefault((q.shape, k.shape), found))


@fault("R", "key-without-scale", expects=_ANY_CALL, witness=case(1, 2, history=("other_scale",)))
class ScaleKept(_Keeps):
    """The scale is kept by head dimension."""

    def scale(self, q: Tensor, scale: float | None) -> float:
        return float(self._kept.setdefault(q.shape[3], super().scale(q, scale)))


@fault("R", "key-without-lengths", expects=_ANY_CALL, witness=case(1, 2, seqlens_k=(2,), history=("other_lengths",)))
class LengthsKept(_Keeps):
    """The lengths are kept by batch size and Nk."""

    def lengths(self, q: Tensor, k: Tensor, seqlens_k: Tensor | None) -> Tensor:
        found = super().lengths(q, k, seqlens_k)
        if seqlens_k is None:
            return found
        return self._kept.setdefault((k.shape[0], k.shape[2]), found)  # type: ignore[no-any-return]


@fault("R", "key-without-dtype", expects=_ANY_CALL, witness=case(1, 2, dtype="fp32", history=("other_dtype",)))
class RoundingKept(_Keeps):
    """Scores are rounded to the dtype of the first call with the same shapes."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        dtype = self._kept.setdefault((task.q.shape, task.k.shape), task.q.dtype)
        scores = super().scores(task, keys)
        return scores if dtype is task.q.dtype else scores.to(dtype).float()


@fault(
    "R",
    "first-call-after-resize",
    expects=_ANY_CALL,
    witness=case(1, 2, history=("more_keys",)),
)
class StaleAfterResize(_Keeps):
    """The first call after Nk has shrunk still has the scratch of the longer one: its row sums."""

    def row_sum(self, l: Tensor, alpha: Tensor, p: Tensor) -> Tensor:
        before = self._kept.get("keys", 0)
        self._kept["keys"] = p.shape[-1]
        found = super().row_sum(l, alpha, p)
        return found + 1.0 if p.shape[-1] < before and not bool(l.any()) else found


@fault(
    "R",
    "autotune-inplace",
    "https://github.com/triton-lang/triton/issues/6547",
    expects=_ANY_CALL,
    witness=case(1, 1),
)
class TunesInPlace(_Keeps):
    """The first call with a shape is run twice into the same output, as a tuner does: O is twice as large."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        is_new = O.shape not in self._kept
        self._kept[O.shape] = True
        return super().store(O + O if is_new else O, q)


@fault(
    "R",
    "output-reused",
    expects=frozenset({"output_aliased"}),
    relation="first_output_kept",
    witness=case(1, 1),
)
class OutputReused(_Keeps):
    """O is a buffer that the next call with the same shape writes again."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        buffer = self._kept.setdefault((O.shape, q.dtype), torch.zeros_like(O, dtype=q.dtype))
        return buffer.copy_(O)  # type: ignore[no-any-return]


@fault(
    "R",
    "output-in-the-input",
    expects=frozenset({"output_aliased", "input_mutated"}),
    relation="own_memory",
    witness=case(1, 1),
)
class OutputInInput(OneTile):
    """A row that sees one key alone gets a view of V for an answer."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: Causal = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Output:  # fmt: skip
        """O, or V where it is the same."""
        if v.shape == q.shape and v.shape[2] == 1 and seqlens_k is None and not return_lse:
            return v
        return super().__call__(q, k, v, causal, scale, seqlens_k, return_lse)


@fault(
    "Q",
    "every-third-call",
    expects=_ANY_CALL,
    witness=case(1, 2, history=("other_values", "other_scale")),
)
class EveryThirdCall(_Keeps):
    """Every third call loses its first key: a counter that is reset too late."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        calls = self._kept["calls"] = self._kept.get("calls", 0) + 1
        return super().attend(task.part(slice(1, task.Nk)) if calls % 3 == 0 and task.Nk > 1 else task)


@fault(
    "Q",
    "sum-order-varies",
    "https://github.com/Dao-AILab/flash-attention/pull/2481",
    expects=frozenset({"not_repeatable"}),
    relation="same_call_twice",
    witness=case(1, 64),
    exact=("deterministic",),
)
class OrderVaries(_Keeps):
    """Tiles are taken in another order in every second call: right, and not the same bits."""

    def tiles(self, task: Task) -> Any:
        self._kept["calls"] = self._kept.get("calls", 0) + 1
        tiles = list(super().tiles(task))
        return tiles if self._kept["calls"] % 2 else tiles[::-1]


@fault("W", "q-scaled-in-place", expects=_MUTATED | {"raised"}, witness=case(4, 1, 40))
class ScaledInPlace(Tiled):
    """q is scaled where it lies and scaled back afterwards, which does not always give the same bits."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        scale = task.scale or 1.0
        task.q.mul_(scale)
        found = super().attend(task)
        task.q.div_(scale)
        return found

    def scores(self, task: Task, keys: slice) -> Tensor:
        return super().scores(task, keys) / (task.scale or 1.0)


@fault("W", "padding-zeroed", expects=_MUTATED, witness=case(1, 2, seqlens_k=(1,)))
class PaddingZeroed(Tiled):
    """K and V past the lengths are set to 0 where they lie."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: Causal = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Output:  # fmt: skip
        """O, over inputs that are changed."""
        for b, length in enumerate(seqlens_k.tolist() if seqlens_k is not None else []):
            k[b, :, length:] = 0.0
            v[b, :, length:] = 0.0
        return super().__call__(q, k, v, causal, scale, seqlens_k, return_lse)


@fault("W", "lengths-clamped-in-place", expects=_MUTATED, witness=case(1, 1, seqlens_k=(0,)))
class LengthsClamped(Tiled):
    """seqlens_k is clamped to 1 where it lies, so that no row is empty, and empty rows are zeroed from a copy."""

    def lengths(self, q: Tensor, k: Tensor, seqlens_k: Tensor | None) -> Tensor:
        found = super().lengths(q, k, seqlens_k).clone()
        if seqlens_k is not None:
            seqlens_k.clamp_(min=1)
        return found


@fault(
    "L",
    "gap-written",
    expects=frozenset({"out_of_bounds"}),
    witness=case(1, 1, layout=("contiguous", "padded_rows", "contiguous")),
)
class GapWritten(Tiled):
    """The padding between the rows of K is set to 0, so that rows may be read in whole words."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d, pitch = k.shape[3], k.stride(2)
        if k.numel() and d < pitch < 2 * d + 4 and k.stride(3) == 1:
            gap = (*k.shape[:3], 1)
            k.as_strided(gap, k.stride(), k.storage_offset() + d).zero_()
        return q, k, v


@fault(
    "C",
    "writes-past-the-end",
    "https://github.com/Dao-AILab/flash-attention/issues/638",
    expects=frozenset({"out_of_bounds"}),
    witness=case(1, 1),
)
class WritesPastEnd(Tiled):
    """Q is padded to whole rows of 16 bytes where it lies: the element after its last one is set to 0."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if q.numel() and q.is_contiguous():
            q.as_strided((1,), (1,), q.storage_offset() + q.numel()).zero_()
        return q, k, v
