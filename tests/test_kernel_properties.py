"""Our kernel under its own harness: whatever is drawn agrees with the oracles."""

import pytest
from hypothesis import given, settings

from harness import attest
from harness.running.devices import choose
from harness.subject.loading import DEFAULT, load
from strategies import AttentionCase, Features, Geometry, attention_cases

KERNEL = load(DEFAULT)


@pytest.mark.flashattest
@settings(max_examples=180)
@given(case=KERNEL.cases(max_length=300))
def test_agrees_with_the_oracles(case):
    attest(KERNEL, case)


@pytest.mark.flashattest
@settings(max_examples=60)
@given(case=attention_cases(causal=("lower_right",), max_length=140, head_dims=(1, 16, 40)))
def test_rows_that_see_nothing(case):
    attest(KERNEL, case)


@pytest.mark.flashattest
@settings(max_examples=60)
@given(case=KERNEL.cases(max_length=300).filter(lambda case: case.geometry.Nq <= 16))
def test_few_rows_with_keys_in_parts(case):
    attest(KERNEL, case.replace(features=case.features.replace(config="decode")))


@pytest.mark.parametrize("config", KERNEL.configs)
def test_every_tile_configuration(config):
    case = AttentionCase(Geometry(B=2, Hq=2, Nq=130, Nk=147, d=24), dtype="fp16")
    asked = Features(causal="lower_right", seqlens_k=(147, 65), return_lse=True, config=config)
    attest(KERNEL, case.replace(features=asked, past_end="nan"), device=choose())
