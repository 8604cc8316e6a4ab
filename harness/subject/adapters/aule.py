"""aule-attention: its public function, by whatever backend it picks (Triton, Vulkan or NumPy)."""

from aule import flash_attention

from harness.subject.adapters._aule import attention_by

REQUIRES = "aule-attention"

attention = attention_by(flash_attention)
