"""torch's `scaled_dot_product_attention` by the memory-efficient backend, on CUDA."""

from torch.nn.attention import SDPBackend

from harness.subject.adapters._sdpa import attention_by

attention = attention_by(SDPBackend.EFFICIENT_ATTENTION)
