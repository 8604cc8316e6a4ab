"""Where a factor of 4 may change the bits of a sum of products: where a number is subnormal.

Tensor cores truncate a sum of products a fixed number of bits below the exponent of the largest one, before they
normalise anything (https://peerj.com/articles/cs-330/). A subnormal number seems to count with the exponent of the
least normal one, so that the sum over 4x is truncated elsewhere (measured in docs/results/budget.md).
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_scaled_in_bits(x: Tensor, dim: int) -> Tensor:
    """Whether sums over x along a dimension, which is kept, stay bit-exact if x is multiplied by 4.

    x: any floating dtype, including NaN and inf. 0 keeps its bits; a subnormal number need not.
    """
    has_room = (x == 0) | ~(x.abs() < torch.finfo(x.dtype).smallest_normal)
    return has_room.all(dim, keepdim=True)
