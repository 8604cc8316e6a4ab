"""torch's `scaled_dot_product_attention` by the math backend: plain matrix products and a softmax."""

from torch.nn.attention import SDPBackend

from harness.subject.adapters._sdpa import attention_by

attention = attention_by(SDPBackend.MATH)
