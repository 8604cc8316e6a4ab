"""torch's FlexAttention, not compiled: plain matrix products and a mask."""

from torch.nn.attention.flex_attention import flex_attention

from harness.subjects._conventions import declares
from harness.subjects._flex import attention_by

attention = declares(alignments=("upper_left", "lower_right"))(attention_by(flex_attention))
