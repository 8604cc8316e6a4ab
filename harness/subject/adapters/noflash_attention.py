"""noflash-attention: attention in chunks of torch operations, in the three ways that it falls back through."""

from __future__ import annotations

import noflash_attention
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_empty

REQUIRES = "noflash-attention"

if noflash_attention.is_enabled():  # It replaces torch's SDPA for the whole process, our oracles' included.
    noflash_attention.disable()

_TIERS = {
    None: noflash_attention.chunked_sdpa,
    "online": noflash_attention.chunked_sdpa_online,
    "inplace": noflash_attention.chunked_sdpa_inplace,
}


@declares(dtypes=("fp32", "fp16"), configs=("online", "inplace"))
def attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None, config: str | None = None
) -> Tensor:
    """Attention in (B, H, N, d); causal is upper-left. bf16 it computes in fp16, and says so."""
    refuse_empty(q, k)
    O: Tensor = _TIERS[config](q, k, v, scale=scale, is_causal=causal)
    return O
