"""A Hypothesis test as one would write it in a quarter of an hour."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from harness.recall.baselines.registry import Inputs, baseline, is_far
from harness.subject.declaration import Subject


@baseline("plain Hypothesis")
def plain_hypothesis(subject: Subject, device: str) -> bool:
    """A hundred examples: integers for the sizes (lengths to 128, GQA among them), one of four head dimensions and two
    dtypes, causal or not, `randn` from a drawn seed, allclose at 1e-2 to plain attention in fp32, gradients too.
    """

    @seed(0)
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        B=st.integers(1, 2),
        Hk=st.integers(1, 2),
        group=st.integers(1, 2) if subject.gqa else st.just(1),
        N=st.tuples(st.integers(1, 128), st.integers(1, 128)),
        d=st.sampled_from([16, 32, 64, 128]),
        dtype=st.sampled_from([torch.float32, torch.float16]),
        causal=st.booleans(),
        numbers=st.integers(0, 2**32 - 1),
    )
    def test(B, Hk, group, N, d, dtype, causal, numbers):  # type: ignore[no-untyped-def]
        inputs = Inputs.randn(numbers, device, dtype, B=B, H=(Hk * group, Hk), N=N, d=d, causal=causal)
        assert not is_far(inputs, subject, atol=1e-2, rtol=1e-2)

    try:
        test()
    except (AssertionError, Flaky):
        return True
    return False
