"""flash-attention's grid and its rules of two and three times the error of a plain implementation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import torch

from harness.recall.baselines.registry import Heads, Inputs, baseline, diagonal
from harness.subject.declaration import Subject

HEADS: tuple[Heads, ...] = ((2, 2), (2, 1), (4, 2))
HEAD_DIMS = (32, 40, 59, 64, 96, 111, 128, 160, 192, 224, 256)
LENGTHS = (
    (113, 203),
    (128, 217),
    (113, 211),
    (108, 256),
    (128, 256),
    (256, 128),
    (128, 128),
    (127, 128),
    (128, 127),
    (256, 256),
)


@baseline("flash-attn grid", "https://github.com/Dao-AILab/flash-attention/blob/main/tests/test_flash_attn.py")
def flash_attn(subject: Subject, device: str) -> bool:
    """The grid of test_flash_attn_output: fp16 and bf16; MHA, MQA and GQA; causal (lower right, where the
    subject has that) or not; 11 head dimensions; 10 pairs of lengths. max|O - ref| must be at most twice that of
    plain attention in the inputs' dtype, ref being fp32, and that of dQ, dK and dV at most three times. Scaled down for
    a CPU: a batch of 2, not 4; heads 2, 2 over 1 and 4 over 2, not 6, 6 over 1 and 6 over 2; lengths of 256 and 512
    (where both are) halved, those from 1,023 on an eighth; the head dimensions take turns over the product of all other
    axes (120 problems, not 1,320). What is asked of dropout, ALiBi, windows and softcap is left out.
    """
    return any(_fails(subject, inputs) for inputs in _grid(subject, device))


def _grid(subject: Subject, device: str) -> Iterator[Inputs]:
    head_dims = cycle(HEAD_DIMS)
    for N, H, causal, dtype in product(LENGTHS, HEADS, (False, True), (torch.float16, torch.bfloat16)):
        kind = causal and diagonal(subject)
        yield Inputs.randn(0, device, dtype, B=2, H=H, N=N, d=next(head_dims), causal=kind)


def _fails(subject: Subject, inputs: Inputs) -> bool:
    answer = inputs.ask(subject)
    if answer is None:
        return False
    right, plain = inputs.reference(answer), inputs.reference(answer, inputs.q.dtype)
    return not all(
        bool((x - right[name]).abs().max() <= (2 if name == "O" else 3) * (plain[name] - right[name]).abs().max())
        for name, x in answer.items()
    )
