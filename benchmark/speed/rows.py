"""A row: one attention problem to time, the operations it takes, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PASSES = ("forward", "backward")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Self-attention of B x Hq heads over N tokens, in `dtype`; Hk heads of K and V serve Hq of Q.

    causal: query i sees the keys j <= i. padding: the mean share of the keys past `seqlens_k`; at 0 no lengths are
    passed at all. ragged: lengths spread evenly around that mean, where else all are alike. direction: which pass is
    timed, of `PASSES`; the backward one gives the gradients of all three inputs, from a forward that is not timed.
    """

    N: int
    d: int
    B: int = 1
    Hq: int = 16
    Hk: int = 16
    dtype: str = "bf16"
    causal: bool = False
    padding: float = 0.0
    ragged: bool = False
    direction: str = "forward"

    def __post_init__(self) -> None:
        if min(self.N, self.d, self.B, self.Hq, self.Hk) < 1:
            raise ValueError(f"N, d, B, Hq and Hk must be at least 1, got {self}.")
        if self.Hq % self.Hk:
            raise ValueError(f"Hq must be a multiple of Hk, got {self.Hq} and {self.Hk}.")
        if not 0 <= self.padding < 1:
            raise ValueError(f"padding must lie in [0, 1), got {self.padding}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        if self.direction not in PASSES:
            raise ValueError(f"direction must be one of {', '.join(PASSES)}, got {self.direction!r}.")

    @property
    def backward(self) -> bool:
        """Whether the gradients are timed."""
        return self.direction == "backward"

    @property
    def group(self) -> int:
        """Heads of Q to one of K and V."""
        return self.Hq // self.Hk

    @property
    def scale(self) -> float:
        """What the scores are multiplied by."""
        return float(self.d**-0.5)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The keys that each batch entry holds."""
        low = high = 1.0 - self.padding
        if self.ragged:
            low, high = max(0.0, 1.0 - 2.0 * self.padding), min(1.0, 2.0 - 2.0 * self.padding)
        shares = (low + (high - low) * (b + 0.5) / self.B for b in range(self.B))
        return tuple(max(1, round(self.N * share)) for share in shares)

    @property
    def flops(self) -> float:
        """Operations of the pass, for each visible pair and head: 2·d for a score and 2·d for its part of O.

        The backward has five such products where the forward has two: S again, dP, dV, dQ and dK.
        """
        pairs = sum(visible_pairs(self.N, length, self.causal) for length in self.lengths)
        return (10.0 if self.backward else 4.0) * self.d * self.Hq * pairs


def visible_pairs(N: int, length: int, causal: bool) -> float:
    """Pairs of one of N queries and one of `length` <= N keys that it sees; on the diagonal each counts half.

    So causal attention over N keys counts N²/2, exactly half, as everybody's tables do.
    """
    if not causal:
        return float(N * length)
    return length * length / 2 + (N - length) * length


@dataclass(frozen=True)
class Inputs:
    """q (B, Hq, N, d), k and v (B, Hk, N, d), contiguous; seqlens_k (B,) int32, or None for a row without padding.

    dO: what O is given as its gradient, like q; None for a forward row.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    seqlens_k: Tensor | None
    dO: Tensor | None = None

    @property
    def device(self) -> str:
        return self.q.device.type


def make_inputs(row: Row, device: str, seed: int = 0) -> Inputs:
    """Normal values: zeros would run faster than real data does, since they draw less power."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(H: int) -> Tensor:
        return torch.randn(row.B, H, row.N, row.d, device=device, dtype=DTYPES[row.dtype], generator=generator)

    lengths = torch.tensor(row.lengths, dtype=torch.int32, device=device) if row.padding else None
    q, k, v = normal(row.Hq), normal(row.Hk), normal(row.Hk)
    return Inputs(q, k, v, lengths, normal(row.Hq) if row.backward else None)


def visible(row: Row, inputs: Inputs) -> Tensor | None:
    """The mask of a row, True where a query sees a key: (N, N), (B, 1, 1, N) or (B, 1, N, N); None: all see all."""
    keys = torch.arange(row.N, device=inputs.q.device)
    mask = keys[None, :] <= keys[:, None] if row.causal else None
    if inputs.seqlens_k is None:
        return mask
    held = (keys < inputs.seqlens_k[:, None])[:, None, None, :]
    return held if mask is None else held & mask
