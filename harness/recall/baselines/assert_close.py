"""`torch.testing.assert_close` as it comes."""

from __future__ import annotations

from itertools import product

import torch

from harness.recall.baselines.registry import Inputs, baseline
from harness.subject.declaration import Subject

LENGTHS = (64, 128, 256)


@baseline("assert_close", "https://docs.pytorch.org/docs/stable/testing.html#torch.testing.assert_close")
def assert_close(subject: Subject, device: str) -> bool:
    """A grid of round shapes in fp32 (B 1 and 2, H 1 and 4, N 64, 128 and 256, d 32, 64 and 128, causal or not) under
    the default tolerances, rtol 1.3e-6 and atol 1e-5, against torch's plain softmax. In fp16 and bf16 the defaults
    (atol 1e-5) fail every kernel that casts P as it should, so nobody keeps them there.
    """
    grid = product((1, 2), (1, 4), LENGTHS, (32, 64, 128), (False, True))
    return any(_fails(subject, device, *point) for point in grid)


def _fails(subject: Subject, device: str, B: int, H: int, N: int, d: int, causal: bool) -> bool:
    inputs = Inputs.randn(0, device, torch.float32, B=B, H=(H, H), N=(N, N), d=d, causal=causal)
    answer = inputs.ask(subject)
    if answer is None:
        return False
    try:
        torch.testing.assert_close(answer, inputs.reference(answer))
    except AssertionError:
        return True
    return False
