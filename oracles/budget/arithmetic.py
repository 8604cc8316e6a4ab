"""The rounding errors of a kernel by dtype: unit roundoffs, and absolute errors near zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch

FLUSHED = 2.0**-126
"""fp32 numbers below this may be flushed to 0."""


@dataclass(frozen=True)
class Arithmetic:
    """Unit roundoffs: u of the softmax, u_dot of a step of a dot product, u_p of the cast of P, u_io of the store.

    u_exp is the relative error of exp, tiny_p and tiny_io are the absolute errors of the casts near zero.
    """

    u: float
    u_dot: float
    u_exp: float
    u_p: float
    tiny_p: float
    u_io: float
    tiny_io: float

    @classmethod
    def of(cls, dtype: torch.dtype, p_dtype: torch.dtype | None = None) -> Arithmetic:
        """Return the arithmetic of a kernel with inputs and O of one dtype that casts P to another (None: the same).

        fp16 and bf16 products are summed in fp32 by tensor cores, which truncate: u_dot is 2^-23
        (Fasi et al. 2021, https://doi.org/10.7717/peerj-cs.330). fp32 means IEEE 754 operations: 2^-24.
        float64 means an oracle: the truth's own error is of the same size, so u is twice 2^-53.
        A cast of P to the dtype of its computation rounds nothing.
        """
        p_dtype = p_dtype or dtype
        u = 2.0**-52 if dtype == torch.float64 else 2.0**-24
        half_ulp, half_ulp_p = torch.finfo(dtype).eps / 2, torch.finfo(p_dtype).eps / 2
        return cls(
            u=u,
            u_dot=2 * u if half_ulp > u else u,
            u_exp=8 * u,
            u_p=half_ulp_p if half_ulp_p > u else 0.0,
            tiny_p=_near_zero(p_dtype),
            u_io=max(u, half_ulp),
            tiny_io=_near_zero(dtype),
        )


def _near_zero(dtype: torch.dtype) -> float:
    """Return half the spacing of the subnormal numbers, or what a device may flush if that is more."""
    numbers = torch.finfo(dtype)
    return max(numbers.smallest_normal * numbers.eps / 2, FLUSHED)
