"""FlashAttention in Triton."""

from .functional import flash_attention
from .tiles import tuning

__all__ = ["flash_attention", "tuning"]
