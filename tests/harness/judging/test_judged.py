"""What runs on a GPU is judged on the CPU, from the same bits, and judged there as it is where it ran."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from harness.campaign.campaign import Campaign
from harness.judging.examine import Question, examine
from harness.judging.judge import judge
from harness.judging.relations import RELATIONS
from harness.judging.votes import with_votes
from harness.running import backward, devices
from harness.running.attempt import attempt
from harness.running.devices import judging_device
from harness.subject.declaration import EXACT, describe
from oracles import ORACLES, Answer
from oracles.registry import make_oracle
from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build
from strategies.layouts import LAYOUTS
from strategies.tensors import memory_of
from tests.harness import toys
from tests.harness.judging import test_checks, test_gradient_relations, test_relations
from tests.harness.pretended import PretendedCuda

HERE, THERE = devices.LARGE, 0
"""Sizes from which a case is judged where it ran: none of these cases, and all."""

CASE = AttentionCase(Geometry(B=2, Hq=2, Nq=5, Nk=5, d=4), dtype="fp16")


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with PretendedCuda() as device:
        monkeypatch.setattr(backward, "_engine_run_backward", device.backward(backward._engine_run_backward))
        yield device


@pytest.fixture(params=[HERE, THERE], ids=["on the CPU", "where it ran"])
def large(request, monkeypatch):
    monkeypatch.setattr(devices, "LARGE", request.param)
    return request.param


def test_a_large_case_is_judged_where_it_ran_and_a_small_one_is_not():
    large = AttentionCase(Geometry(Nq=4096, Nk=4096, d=64))
    assert [judging_device(case, "cuda") for case in (CASE, large)] == ["cpu", "cuda"]
    assert [judging_device(case, "cpu") for case in (CASE, large)] == ["cpu", "cpu"]


# --- the same bits


def bits(tensor):
    """Where a tensor lies, and all the memory that it lies in."""
    place = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
    return place, memory_of(tensor).cpu().view(torch.uint8).tolist()


def parts(problem):
    given = list(problem.tensors.values())
    return given if problem.seqlens_k is None else [*given, problem.seqlens_k]


@settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=attention_cases(max_length=70, history=False, gradients=True))
def test_a_case_has_the_same_bits_on_both(cuda, case):
    here, there = build(case), build(case, "cuda")
    assert {part.device.type for part in parts(there)} == {"cuda"}
    assert [bits(part) for part in parts(there)] == [bits(part) for part in parts(here)]
    assert here.to("cpu") is here
    assert [bits(part) for part in parts(there.to("cpu"))] == [bits(part) for part in parts(here)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_judged_is_what_the_subject_was_given(cuda, layout):
    given = []

    def attention(q, k, v, **asked):
        given.append([bits(x) for x in (q, k, v)])
        return toys.right(q, k, v)

    spec = TensorSpec("normal", 3, layout)
    tried = attempt(describe(attention), CASE.replace(q=spec, k=spec, v=spec), "cuda")
    assert {tried.truth.O.device.type, tried.budget.O.device.type, tried.pristine.q.device.type} == {"cpu"}
    assert given == [[bits(x) for x in parts(tried.pristine)]]


def test_a_subject_that_writes_to_its_inputs_does_not_reach_what_is_judged(cuda, large):
    tried = attempt(describe(toys.scales_in_place), CASE, "cuda")
    assert tried.result.mutated == ("q",)
    assert bits(tried.pristine.q) == bits(build(CASE).q) != bits(tried.problem.q)
    assert tried.compared["O"].ok


# --- the same verdicts


def at_home(function, device):
    """The function, which raises where it is called with a tensor of another device."""

    @functools.wraps(function)
    def attention(*tensors, **asked):
        assert {x.device.type for x in (*tensors, *asked.values()) if isinstance(x, torch.Tensor)} == {device}
        return function(*tensors, **asked)

    attention.__flashattest__ = getattr(function, "__flashattest__", {})
    return attention


def alike(function, case, exact=(), also=RELATIONS):
    """What is found on the pretended device, once it is found to be what is found on the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        subject = test_relations.promising(at_home(function(), device), exact)
        found.append(judge(attempt(subject, case, device), also, others=False))
    assert repr(found[0]) == repr(found[1])
    return found[1]


@pytest.mark.usefixtures("cuda", "large")
class TestJudgedAlike:
    @pytest.mark.parametrize(("function", "case", "kind", "check"), test_checks.FIRES)
    def test_checks_fire(self, function, case, kind, check):
        assert [(v.kind, v.check) for v in alike(lambda: function, case)] == [(kind, check)]

    @pytest.mark.parametrize("name", RELATIONS)
    def test_relations_fire(self, name):
        make, case, kind = {**test_relations.FIRES, **test_gradient_relations.FIRES}[name]
        assert (kind, name) in [(v.kind, v.check) for v in alike(make, case, EXACT, [name])]

    @pytest.mark.parametrize("case", test_relations.RIGHT, ids=repr)
    def test_silent_on_right(self, case):
        assert alike(lambda: toys.right, case, tuple(set(EXACT) - {"mask_invariant"})) == []

    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=attention_cases(max_length=70, max_work=1 << 12, causal=(False, True), gradients=True))
    def test_what_is_drawn(self, case):
        assert alike(lambda: toys.right, case, also=()) == []
        alike(lambda: last_key_doubled, case, also=())


def last_key_doubled(q, k, v, causal=False, scale=None, seqlens_k=None, return_lse=False):
    v = v.clone()
    v[:, :, -1:] *= 2
    return toys.right(q, k, v, causal, scale, seqlens_k, return_lse)


def test_what_is_examined_is_the_same_with_maps_and_all(cuda, large):
    case = CASE.replace(features=Features(causal=True, return_lse=True))
    question = Question(case, votes=True, maps=True)
    here, there = (examine(describe(causal_from_the_right), question, device) for device in ("cpu", "cuda"))
    assert here.maps
    assert (here.verdicts[0].kind, here.maps, here.seen) == (there.verdicts[0].kind, there.maps, there.seen)
    assert here.compared == there.compared


def causal_from_the_right(q, k, v, causal=False, return_lse=False):
    return toys.right(q, k, v, False, None, None, return_lse)


def test_a_campaign_shrinks_to_the_same_case(cuda):
    found = []
    for device in ("cpu", "cuda"):
        done = Campaign(describe(last_key_doubled), device, 4, seconds=None, cases=30).run()
        found.append([(each.verdict.kind, each.shrunk, each.first) for each in done.findings.values()])
    assert found[0] == found[1]
    assert len(found[0]) == 1


# --- what stays on the device


def test_oracles_vote_where_the_subject_ran(cuda, large, monkeypatch):
    """Each of torch's kernels for CUDA is another one than that for a CPU."""
    asked = []

    def of_the_device(problem):
        """An oracle that runs on CUDA."""
        asked.append({part.device.type for part in parts(problem)})
        return Answer(ORACLES["naive_fp32"](problem).O)

    oracle = make_oracle(of_the_device, lambda problem: None if problem.q.is_cuda else "runs on CUDA only")
    monkeypatch.setitem(ORACLES, "of_the_device", oracle)
    tried = attempt(describe(toys.ignores_causal), CASE.replace(features=Features(causal=True)), "cuda")
    (verdict,) = judge(tried)
    assert with_votes(tried, verdict).votes["of_the_device"].startswith("agrees with float64")
    assert asked == [{"cuda"}]


def test_a_tensor_that_a_relation_leaves_alone_is_the_very_one_of_the_first_call(cuda):
    given = []

    def attention(q, k, v):
        given.append([x.data_ptr() for x in (q, k, v)])
        return toys.right(q, k, v)

    tried = attempt(describe(attention), CASE, "cuda")
    for relation in ("same_call_twice", "linear_in_v"):
        assert judge(tried, [relation], others=False) == []
    first, same, with_4v = given
    assert first == same
    assert [one == other for one, other in zip(first, with_4v, strict=True)] == [True, True, False]


def test_the_device_is_asked_for_little_more_than_the_calls(cuda, monkeypatch):
    counts = []
    for large in (HERE, THERE):
        monkeypatch.setattr(devices, "LARGE", large)
        before = cuda.calls
        examine(describe(lambda q, k, v: torch.empty_like(q).copy_(v)), Question(CASE, others=False), "cuda")
        counts.append(cuda.calls - before)
    assert counts[0] < counts[1] / 3
