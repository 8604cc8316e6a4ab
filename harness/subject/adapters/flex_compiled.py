"""torch's FlexAttention, compiled: a Triton kernel on CUDA, a C++ one on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor.exc import InductorError
from torch.nn.attention.flex_attention import flex_attention

from harness.subject.adapters._conventions import declares
from harness.subject.adapters._flex import attention_by

# Past its limits torch.compile goes on uncompiled, and another function than this one would be attested.
torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 1 << 20
_compiled = torch.compile(flex_attention)


def compiled_flex_attention(*tensors: Any, **asked: Any) -> Any:
    """`flex_attention`, compiled for each new kind of call; what it says is not implemented is a refusal."""
    try:
        return _compiled(*tensors, **asked)
    except InductorError as error:
        if "NotImplementedError" in str(error):
            raise NotImplementedError(str(error).splitlines()[0]) from error
        raise


attention = declares(alignments=("upper_left", "lower_right"))(attention_by(compiled_flex_attention))
