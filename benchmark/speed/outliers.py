"""The input of the FlashAttention-3 paper's accuracy table, and the error of a provider on it.

Section 4.3 of https://arxiv.org/abs/2407.08608 draws q, k and v from N(0, 1) + N(0, 100)·Bernoulli(0.001): normal
values, and one in a thousand with a standard deviation of 10 on top, as activations with outliers have them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speed.rows import DTYPES, Inputs, Row

N, D = 2048, 64
OUTLIER_STD, OUTLIER_SHARE = 10.0, 0.001

HEADS, SEED = 4, 0
BOUNDS = {"fp16": 5.5e-5, "bf16": 3.4e-4}
"""RMSE that ours must keep on HEADS heads or fewer of SEED. Other inputs have none: those of one honest kernel differ

by 20 %, since few rows, where an outlier of v has much weight, make most of it. `of_ideal` is what compares inputs."""


def outlier_row(dtype: str, heads: int, direction: str = "forward") -> Row:
    """The problem that the bounds are for: N 2048, d 64, full attention."""
    return Row(N=N, d=D, Hq=heads, Hk=heads, dtype=dtype, direction=direction)


def outlier_inputs(row: Row, device: str, seed: int) -> Inputs:
    """q, k and v of a row, rounded to its dtype; the same numbers on every device, and for any number of heads.

    dO of a backward row is normal, without outliers, after them: so q, k and v are those of the forward.
    """
    heads = np.stack([_head(row, seed, h) for h in range(row.Hq)], axis=1)
    q, k, v, dO = (torch.from_numpy(x)[None].to(DTYPES[row.dtype]).to(device) for x in heads)
    return Inputs(q, k, v, None, dO if row.backward else None)


def _head(row: Row, seed: int, h: int) -> NDArray[np.float64]:
    """q, k, v and dO of one head, (4, N, d)."""
    random, shape = np.random.Generator(np.random.Philox(key=(seed << 32) + h)), (3, row.N, row.d)
    outliers = OUTLIER_STD * random.standard_normal(shape) * (random.random(shape) < OUTLIER_SHARE)
    qkv = random.standard_normal(shape) + outliers
    return np.concatenate([qkv, random.standard_normal((1, *shape[1:]))])


def exact(row: Row, inputs: Inputs) -> Tensor:
    """O in float64 from the rounded inputs, a head at a time: the scores of all would not fit a small device."""
    heads = [
        torch.softmax(q @ k.mT * row.scale, -1) @ v
        for q, k, v in zip(*(x.flatten(0, 1).double() for x in (inputs.q, inputs.k, inputs.v)), strict=True)
    ]
    return torch.stack(heads).view_as(inputs.q)


def ideal(row: Row, inputs: Inputs) -> Tensor:
    """O by a kernel without any error but two that all share: P is cast to the dtype before P·V, and O at the end."""
    heads = []
    for q, k, v in zip(*(x.flatten(0, 1).double() for x in (inputs.q, inputs.k, inputs.v)), strict=True):
        S = q @ k.mT * row.scale
        P = (S - S.amax(-1, keepdim=True)).exp()
        heads.append((P.to(DTYPES[row.dtype]).double() @ v) / P.sum(-1, keepdim=True))
    return torch.stack(heads).view_as(inputs.q).to(DTYPES[row.dtype])


def gradients(row: Row, inputs: Inputs, ideal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """dQ, dK and dV in float64 from the rounded inputs; or by an ideal kernel, in the row's dtype.

    That one casts what all do: P and dS before their products, O before δ = rowsum(dO∘O), and the gradients.
    """
    assert inputs.dO is not None
    heads = zip(*(x.flatten(0, 1) for x in (inputs.q, inputs.k, inputs.v, inputs.dO)), strict=True)
    by_head = [_gradients(row.scale, head, DTYPES[row.dtype] if ideal else torch.float64) for head in heads]
    dQ, dK, dV = (torch.stack(each).view_as(inputs.q) for each in zip(*by_head, strict=True))
    return dQ, dK, dV


def _gradients(scale: float, head: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    def cast(x: Tensor) -> Tensor:
        return x.to(dtype).double()

    q, k, v, dO = (x.double() for x in head)
    P = (q @ k.mT * scale).softmax(-1)
    delta = (dO * cast(P @ v)).sum(-1, keepdim=True)
    dS = cast(P * (dO @ v.mT - delta))
    return tuple(x.to(dtype) for x in (scale * dS @ k, scale * dS.mT @ q, cast(P).mT @ dO))


def bound(row: Row, seed: int) -> float | None:
    """The bound of O of an input; None where it has none, and for gradients."""
    return BOUNDS[row.dtype] if seed == SEED and row.Hq <= HEADS and not row.backward else None


def rmse(O: Tensor, truth: Tensor) -> float:
    """Root of the mean squared difference, over all elements."""
    return float((O.double() - truth).square().mean().sqrt())
