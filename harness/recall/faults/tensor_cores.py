"""Matrix products as tensor cores compute them, emulated on a CPU.

The products of a step, and the sum so far, are not rounded one by one: all are truncated BITS bits below the exponent
of the largest, and their sum is truncated to fp32 (https://peerj.com/articles/cs-330/, measured on the V100, T4 and
A100). The size of a step and the number of bits differ by device and are not documented. A subnormal number counts with
the exponent of the least normal one (`harness/judging/relations/subnormals.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 16
"""Products that are added at once."""
BITS = 24
"""Bits kept below the exponent of the largest product."""
FP32_BITS = 24
_NOTHING = -(2**9)
"""The exponent of 0, below that of any product of two numbers that are not."""


def tensor_core_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b, fp32 (..., M, N), of a (..., M, K) and b (..., K, N) in fp32 that hold numbers of a narrower dtype."""
    total = a.new_zeros(*a.shape[:-1], b.shape[-1], dtype=torch.float64)
    for first in range(0, a.shape[-1], STEP):
        left = a[..., first : first + STEP, None].double()
        right = b[..., None, first : first + STEP, :].double()
        terms = left * right
        exponents = (_exponent(left, dtype) + _exponent(right, dtype)).masked_fill(terms == 0, _NOTHING)
        largest = torch.maximum(exponents.amax(-2), _exponent(total, torch.float32))
        total = _cut(total, largest - BITS) + _cut(terms, (largest - BITS).unsqueeze(-2)).sum(-2)
        total = _cut(total, _exponent(total, torch.float32) - (FP32_BITS - 1))
    return total.float()


def _exponent(x: Tensor, dtype: torch.dtype) -> Tensor:
    """e where |x| is 2^e to 2^(e + 1), that of the least normal number of the dtype where x is less, very low for 0."""
    least = torch.finfo(dtype).smallest_normal
    return (torch.frexp(x.abs().clamp(min=least)).exponent - 1).masked_fill(x == 0, _NOTHING)


def _cut(x: Tensor, exponent: Tensor) -> Tensor:
    """Multiples of 2^exponent, towards 0."""
    step = torch.exp2(exponent.double())
    return (x / step).trunc() * step
