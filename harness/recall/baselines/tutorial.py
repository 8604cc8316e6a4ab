"""Triton's tutorial on fused attention."""

from __future__ import annotations

from itertools import product

import torch

from harness.recall.baselines.registry import Inputs, baseline, is_far
from harness.subject.declaration import Subject

LENGTHS = (128, 256, 512)


@baseline("Triton tutorial", "https://github.com/triton-lang/triton/blob/main/python/tutorials/06-fused-attention.py")
def tutorial(subject: Subject, device: str) -> bool:
    """The grid of test_op in fp16: Z, H, N_CTX, HEAD_DIM, causal; inputs of sigma 0.5, a scale of 0.5, atol 1e-2 and
    rtol 0 for O and the gradients, the reference in the same precision. Scaled down for a CPU: H is 1 or 2, not 2 or
    48; N_CTX 128, 256 and 512, not 128, 1,024 and 4,096, so that all stay multiples of the tiles; Z is 1 or 2, not 1 or
    4.
    """
    grid = product((1, 2), (1, 2), LENGTHS, (64, 128), (False, True))
    return any(_fails(subject, device, *point) for point in grid)


def _fails(subject: Subject, device: str, Z: int, H: int, N_CTX: int, HEAD_DIM: int, causal: bool) -> bool:
    scale = 0.5 if "scale" in subject.keywords else None
    inputs = Inputs.randn(
        20, device, torch.float16, B=Z, H=(H, H), N=(N_CTX, N_CTX), d=HEAD_DIM, causal=causal, scale=scale, std=0.5
    )
    return is_far(inputs, subject, atol=1e-2, rtol=0.0)
