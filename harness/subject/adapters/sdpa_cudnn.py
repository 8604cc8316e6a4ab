"""torch's `scaled_dot_product_attention` by the cuDNN backend, on CUDA."""

from torch.nn.attention import SDPBackend

from harness.subject.adapters._sdpa import attention_by

attention = attention_by(SDPBackend.CUDNN_ATTENTION)
