"""torch's FlexAttention, not compiled: plain matrix products and a mask."""

from torch.nn.attention.flex_attention import flex_attention

from harness.subject.adapters._conventions import declares
from harness.subject.adapters._flex import attention_by

attention = declares(alignments=("upper_left", "lower_right"))(attention_by(flex_attention))
