"""Faults that no legal input shows, each with the proof: they do not count."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Back, Differentiable, Saved
from harness.recall.faults.blocks import Causal, Task, Tiled
from harness.recall.faults.registry import equivalent, equivalent_edit

_HIDE = 'scores = tl.where(_sees(columns[None, :], row_limit), scores, -float("inf"))'


class _Shifted(Tiled):
    """A constant is added to all scores of a row."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return super().scores(task, keys) + 0.125


@equivalent(
    "constant-shift-without-lse",
    proof="softmax(s + c) = exp(s + c) / sum exp(s + c) = softmax(s), as exp(c) cancels, and LSE, which moves by c, is "
    "not returned. The sum s + c rounds once, by at most u·(|s| + c), which the budget's 4u·|s| + u_exp covers.",
    p_dtype="fp32",
)
def constant_shift(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: Causal = False,
    scale: float | None = None,
    seqlens_k: Tensor | None = None,
) -> Tensor:
    """The bias of a row is off by a constant, and LSE is not returned: https://github.com/vllm-project/vllm/pull/945."""
    O = _Shifted()(q, k, v, causal, scale, seqlens_k)
    assert isinstance(O, Tensor)
    return O


equivalent_edit(
    "mask-applied-twice",
    "The mask of the tile is applied twice.",
    [(_HIDE, f"{_HIDE}\n            {_HIDE}")],
    proof="Masking is idempotent: where(c, where(c, s, -inf), -inf) = where(c, s, -inf), bit for bit.",
)

equivalent_edit(
    "one-full-tile-less",
    "One tile that every row sees is visited in the loop with a mask.",
    [
        (
            "return full // BLOCK_N * BLOCK_N,",
            "return tl.maximum(full // BLOCK_N - 1, 0) * BLOCK_N,",
        )
    ],
    file="portable/device/mask.py",
    proof="The two loops take the same step on a tile but for loads masked where column >= visible and scores masked "
    "where column >= row_limit. In a tile that every row sees neither holds for any column, so both masks are all "
    "true; tiles are still visited once each and in order, since the second loop starts where the first ends.",
)

equivalent_edit(
    "short-tiles-first",
    "Causal query tiles are taken from the shortest to the longest, which leaves a long one for the end.",
    [("q_tile = q_tiles - 1 - q_tile", "q_tile = q_tile + 0")],
    file="portable/device/tile.py",
    proof="i -> q_tiles - 1 - i is a bijection of the query tiles of a head, a program writes the rows of its own tile "
    "alone and reads only inputs: the order of independent programs changes no bit. It costs time.",
)


@equivalent(
    "gradients-in-fp32",
    proof="autograd casts what a Function returns to its input's dtype before anyone sees it, with the rounding to "
    "nearest that the right function ends with: the same fp32 numbers are rounded once either way.",
)
class GradientsInFP32(Differentiable):
    """dQ, dK and dV are returned in fp32, whatever the inputs."""

    def store_dq(self, dQ: Tensor, saved: Saved) -> Tensor:
        """dQ in fp32."""
        return dQ

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        """dK in fp32."""
        return dK

    def store_dv(self, dV: Tensor, saved: Saved) -> Tensor:
        """dV in fp32."""
        return dV


@equivalent(
    "dq-padded-keys-unmasked",
    proof="A row of K that pads the last tile is 0, so its dS, whatever finite number that is, adds dS·0 = 0 to dQ. No "
    "row of dK or dV is written for it, and P and dS of the other keys do not depend on it. It is finite: P = exp(-LSE)"
    " is capped at 1, and dP = dO·0 = 0.",
)
class PaddedKeysUnmasked(Differentiable):
    """Rows of 0 that pad the last tile of keys are no hidden keys to dQ."""

    def dq_tile(self, back: Back, rows: slice) -> Tensor:
        """dQ with the padding of the last tile."""
        padding = torch.zeros(-back.task.Nk % self.tile, back.task.q.shape[3], device=back.task.q.device)
        P = (-self.floor(back.LSE[:, :, rows])).clamp(max=0.0).exp().expand(-1, -1, -1, padding.shape[0])
        dS = self.ds(P, torch.zeros_like(P), back.delta[:, :, rows])
        return super().dq_tile(back, rows) + self.cast_ds(dS, back.task) @ padding
