"""What the subjects of torch's SDPA share: one backend and no other, refusing what it does not take."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from harness.subject.declaration import Attention

_NOT_TAKEN = ("No available kernel", "No viable backend")


def attention_by(backend: SDPBackend) -> Attention:
    """SDPA by one backend; causal is upper-left, as `is_causal` is."""

    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        try:
            with sdpa_kernel(backend), warnings.catch_warnings(action="ignore"):
                return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa)
        except RuntimeError as error:
            if any(words in str(error) for words in _NOT_TAKEN):
                raise NotImplementedError(f"torch has no {backend.name} kernel for this call") from error
            raise

    attention.__flashattest__ = {"differentiable": True}  # type: ignore[attr-defined]
    return attention
