"""KernelBench's rule."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.recall.baselines.registry import Inputs, baseline, is_far
from harness.subject.declaration import Subject

TRIALS = 5


@baseline("KernelBench", "https://github.com/ScalingIntelligence/KernelBench/blob/main/src/kernelbench/eval.py")
def kernelbench(subject: Subject, device: str) -> bool:
    """Five trials of one shape in fp16, each allclose to torch at 1e-2. The shape is that of problem 97 of level 1
    (B 32, H 32, N 512, d 1024), scaled down for a CPU to B 2, H 4, N 256, d 64. No gradient is asked for.
    """
    return any(_fails(subject, device, trial) for trial in range(TRIALS))


def _fails(subject: Subject, device: str, trial: int) -> bool:
    inputs = Inputs.randn(trial, device, torch.float16, B=2, H=(4, 4), N=(256, 256), d=64)
    return is_far(inputs, replace(subject, differentiable=False), atol=1e-2, rtol=1e-2)
