"""FlashAttention in Triton."""

from .functional import flash_attention

__all__ = ["flash_attention"]
