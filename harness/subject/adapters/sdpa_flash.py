"""torch's `scaled_dot_product_attention` by the flash backend: FlashAttention-2, or torch's own on a CPU."""

from torch.nn.attention import SDPBackend

from harness.subject.adapters._sdpa import attention_by

attention = attention_by(SDPBackend.FLASH_ATTENTION)
