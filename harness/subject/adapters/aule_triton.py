"""aule-attention: its Triton kernel, without a GPU too."""

from aule import flash_attention_triton

from harness.subject.adapters._aule import attention_by

REQUIRES = "aule-attention"

attention = attention_by(flash_attention_triton)
