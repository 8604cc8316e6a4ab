"""The input of the FlashAttention-3 paper's accuracy table, the right answer, and that of an ideal kernel.

Section 4.3 of https://arxiv.org/abs/2407.08608 draws q, k and v from N(0, 1) + N(0, 100)·Bernoulli(0.001): normal
values, and one in a thousand with a standard deviation of 10 on top, as activations with outliers have them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles import Judgement
from speed.judge import GRADIENTS
from speed.rows import DTYPES, Inputs, Row
from strategies import Features, Problem

N, D = 2048, 64
OUTLIER_STD, OUTLIER_SHARE = 10.0, 0.001


def outlier_row(dtype: str, heads: int, direction: str = "forward") -> Row:
    """The paper's problem: N 2048, d 64, full attention."""
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


def exact(row: Row, inputs: Inputs) -> dict[str, Tensor]:
    """O, or dQ, dK and dV, in float64."""
    judgement = Judgement(Problem(inputs.q, inputs.k, inputs.v, Features(causal=row.causal), dO=inputs.dO))
    return {name: judgement.wanted(name) for name in (GRADIENTS if row.backward else ("O",))}


def ideal(row: Row, inputs: Inputs) -> dict[str, Tensor]:
    """The same by a kernel that errs only where all must: what it casts to the row's dtype, everything else exact.

    O has the casts of P = exp(S - max S) and of O. Gradients have those of P and dS before their products, of O before
    δ = rowsum(dO∘O), and their own.
    """
    dtype = DTYPES[row.dtype]

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype).double()

    q, k, v = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    S = q @ k.mT * row.scale
    if inputs.dO is None:
        P = (S - S.amax(-1, keepdim=True)).exp()
        return {"O": (cast(P) @ v / P.sum(-1, keepdim=True)).to(dtype)}
    P, dO = S.softmax(-1), inputs.dO.double()
    delta = (dO * cast(P @ v)).sum(-1, keepdim=True)
    dS = cast(P * (dO @ v.mT - delta))
    found = {"dQ": row.scale * dS @ k, "dK": row.scale * dS.mT @ q, "dV": cast(P).mT @ dO}
    return {name: x.to(dtype) for name, x in found.items()}


def rmse(got: Tensor, truth: Tensor) -> float:
    """Root of the mean squared difference, over all elements."""
    return float((got.double() - truth).square().mean().sqrt())
