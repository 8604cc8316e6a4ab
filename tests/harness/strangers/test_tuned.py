"""Each configuration of an autotuned kernel is an axis to draw, by itself."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET=1 turns it on", allow_module_level=True)

from harness.judging.attest import attest
from harness.judging.relations import check_relations
from harness.judging.verdict import Failure
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from harness.subject.tuning import Tuned
from strategies import AttentionCase, Features, Geometry
from tests.harness.strangers import tuned
from tests.harness.subject.test_subject import drawn

NAMES = ("BLOCK_N=16", "BLOCK_N=32 num_warps=4", "BLOCK_N=64")


def case(config, **sizes):
    return AttentionCase(Geometry(**{"Nk": 33, "d": 4} | sizes), features=Features(config=config))


def test_configurations_are_named():
    subject = describe(tuned.right)
    assert subject.configs == NAMES
    assert subject.keywords == {"scale", "config"}


@pytest.mark.parametrize("config", [None, *NAMES, "BLOCK_N=32 num_warps=8", "of another kernel"])
def test_every_configuration_runs(config):
    attest(tuned.right, case(config))


def test_a_fault_in_one_configuration_alone_is_found_there_alone():
    attest(tuned.faulty, case("BLOCK_N=16"))
    attest(tuned.faulty, case(None))
    with pytest.raises(Failure, match="config='BLOCK_N=32 num_warps=4'"):
        attest(tuned.faulty, case("BLOCK_N=32 num_warps=4"))


def test_what_the_kernel_prunes_is_not_run():
    attest(tuned.faulty, case("BLOCK_N=32 num_warps=4", Nk=17))


def test_the_kernels_are_left_as_they_were():
    attest(tuned.right, case(NAMES[1]))
    assert "run" not in vars(tuned.right_kernel)
    assert len(tuned.right_kernel.configs) == 4


def test_configurations_are_drawn():
    assert {case.features.config for case in drawn(describe(tuned.right))} == {None, *NAMES}


def test_configurations_that_disagree_are_found():
    tried = attempt(describe(tuned.faulty), case(None), "cpu")
    (verdict,) = check_relations(tried, ["any_config"], others=False)
    assert "With config BLOCK_N=32 num_warps=4" in verdict.sentence


def test_a_configuration_that_the_kernel_asserts_against_is_passed_over():
    out = torch.zeros(1)
    for config in (None, "BLOCK=8", "BLOCK=16", "BLOCK=32"):
        Tuned(lambda config=config: tuned.small_blocks[(1,)](out, 12), [tuned.small_blocks])(config=config)
        assert out.item() == 16
    tuned.small_blocks[(1,)](out, 32)
    assert out.item() == 32


def test_a_configuration_that_fails_as_it_runs_is_not():
    with pytest.raises(Exception, match="undefined"):
        tuned.fails_in_one[(1,)](torch.zeros(1))
