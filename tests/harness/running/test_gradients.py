"""A differentiable subject is detected, gets cases with gradients, runs its backward, and is named in the summary."""

import json
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings

from harness.campaign.campaign import Campaign
from harness.campaign.coverage import Coverage
from harness.campaign.differentiable import with_differentiability
from harness.campaign.known import forward_of
from harness.campaign.setting import Setting
from harness.campaign.small_box import small_box
from harness.campaign.tally import Tally
from harness.cli.main import OPERATIONS, main
from harness.errors import CannotRun
from harness.judging.examine import Question
from harness.judging.judge import judge
from harness.running.attempt import attempt
from harness.running.call import call
from harness.subject.declaration import ANY, describe
from harness.subject.loading import load
from harness.workers import Apart, Here, WorkerLimits
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from strategies import case as cases
from tests.documents import ROOT, blocks
from tests.harness import toys

CASE = AttentionCase(Geometry(B=2, Hq=2, Nq=5, Nk=5, d=4), operation="forward_backward")
BOTH = ("forward", "forward_backward")


def differentiable(function):
    return replace(describe(function), differentiable=True)


def drawn(subject, count=100):
    found = []

    @seed(1)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=subject.cases())
    def keep(case):
        found.append(case)

    keep()
    return found


# --- what is asked for


def test_gradients_are_drawn_where_there_are_some():
    assert {case.operation for case in drawn(differentiable(toys.right))} == set(BOTH)


@pytest.mark.parametrize("known", [None, False])
def test_a_subject_without_gradients_draws_what_it_always_drew(known):
    subject = replace(describe(toys.right), differentiable=known)
    without = replace(differentiable(toys.right), operation="forward")
    assert drawn(subject) == drawn(without)
    assert {case.operation for case in drawn(subject)} == {"forward"}


@pytest.mark.parametrize("operation", BOTH)
def test_one_operation_alone_is_drawn(operation):
    subject = replace(differentiable(toys.right), operation=operation)
    assert {case.operation for case in drawn(subject, 30)} == {operation}


def test_the_operations_of_the_command_line_are_those_of_a_case():
    assert (ANY, *cases.OPERATIONS) == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_not_asked_for_is_not_missed(operation):
    asked = with_differentiability(replace(differentiable(toys.right), operation=operation), None)
    missed = Coverage().missed(asked)
    assert missed["operation"] == list(asked.operations)
    assert ("dO layout" in missed, "needs_grad" in missed) == (operation != "forward",) * 2
    assert "dO layout" not in Coverage().missed(describe(toys.right))


def test_a_case_counts_under_what_comes_back():
    coverage = Coverage()
    case = CASE.replace(features=Features(return_lse=True), dLSE=TensorSpec(), needs_grad=("q", "v"))
    coverage.add(case.replace(dO=TensorSpec("one_hot", layout="expanded_all")))
    hit = {axis: set(coverage.hits[axis]) for axis in ("operation", "dO layout", "dO values", "dLSE", "needs_grad")}
    assert hit == {
        "operation": {"forward_backward"},
        "dO layout": {"expanded_all"},
        "dO values": {"one_hot"},
        "dLSE": {"given"},
        "needs_grad": {"q v"},
    }


def test_everything_that_is_drawn_can_be_missed():
    coverage, subject = Coverage(), differentiable(toys.right)
    for case in drawn(subject, 400):
        coverage.add(case)
    for axis, (hit, possible) in coverage.shares(subject).items():
        assert hit <= possible
        assert axis not in ("operation", "dLSE") or hit == possible


def test_the_small_box_has_gradients_too():
    forward = list(small_box(describe(toys.right)))
    both = list(small_box(differentiable(toys.right)))
    assert [case for case in both if not case.has_gradients] == forward
    assert len(both) == 2 * len(forward)
    assert {case.dLSE for case in both if case.has_gradients} == {TensorSpec()}


# --- the small call that finds out


def found(function, operation=ANY):
    subject = replace(describe(function), operation=operation)
    return with_differentiability(subject, Here(subject, "cpu"))


def in_float64_alone(q, k, v):
    if q.dtype is not torch.float32:
        raise RuntimeError("fp32 alone")
    return toys.right(q, k, v)


def through_numpy(q, k, v):
    return torch.from_numpy(toys.right(q, k, v).numpy())


def refuses_all(q, k, v):
    raise NotImplementedError("closed today")


def takes_long_calls_alone(q, k, v):
    if q.shape[2] < 256:
        raise ValueError("at least 256 rows")
    return toys.right(q, k, v)


@pytest.mark.parametrize(
    ("function", "is_so", "how"),
    [
        (toys.right, True, "found"),
        (takes_long_calls_alone, True, "found"),
        (in_float64_alone, True, "found"),
        (toys.raises_in_backward, True, "found"),
        (toys.drops_the_graph, False, "found: O has no grad_fn"),
        (through_numpy, False, "found: on tensors that require a gradient, the call raised RuntimeError: Can't call"),
        (refuses_all, False, "found: on tensors that require a gradient, it refuses every small call: NotImpl"),
    ],
)
def test_a_small_call_finds_out(function, is_so, how):
    subject = found(function)
    assert subject.differentiable is is_so
    assert subject.differentiable_by.startswith(how)


def test_a_declaration_needs_no_call():
    def attention(q, k, v):
        raise AssertionError("called")

    for says in (True, False):
        attention.__flashattest__ = {"differentiable": says}
        subject = found(attention)
        assert (subject.differentiable, subject.differentiable_by) == (says, "declared")


def test_a_declaration_that_is_no_bool_is_an_error():
    toy = describe(toys.right).function
    with pytest.raises(CannotRun, match="differentiable='yes'; it is True or False"):
        describe(type("Toy", (), {"__flashattest__": {"differentiable": "yes"}, "__call__": staticmethod(toy)})())


def test_gradients_that_are_not_there_cannot_be_asked_for():
    with pytest.raises(CannotRun, match=r"has no gradients to attest \(found: O has no grad_fn\)"):
        found(toys.drops_the_graph, "forward_backward")
    assert found(toys.drops_the_graph, "forward").operations == ("forward",)


ENDS = """
import os
from harness.subject.adapters.sdpa import attention as right
def attention(q, k, v):
    if q.requires_grad:
        os._exit(3)
    return right(q, k, v)
"""


def test_a_small_call_that_ends_its_process_is_survived(tmp_path):
    (tmp_path / "ends.py").write_text(ENDS)
    setting = Setting(f"{tmp_path}/ends.py:attention", None, "cpu", WorkerLimits())
    apart = setting.apart(setting.maker())
    subject = with_differentiability(apart.subject, apart)
    assert subject.differentiable is False
    assert "the call ended its process: exit status 3" in subject.differentiable_by
    assert apart.examine(Question(CASE.replace(operation="forward"))).compared["O"].ok
    apart.close()


def test_a_small_call_that_hangs_is_the_last(monkeypatch):
    monkeypatch.setattr("harness.workers.apart.PROBE_SECONDS", 0.5)

    def hangs(q, k, v):
        while q.requires_grad:
            pass
        return toys.right(q, k, v)

    subject = describe(hangs)
    apart = Apart(lambda: subject, "cpu")
    began = time.monotonic()
    assert with_differentiability(apart.subject, apart).differentiable_by.endswith("the call did not end within 0.5 s")
    assert time.monotonic() - began < 20
    apart.close()


def test_a_campaign_finds_out_once_where_it_is_told_to():
    probed = Campaign(describe(toys.right), "cpu", 0, seconds=None, cases=30, probes=True).run()
    assert (probed.subject.differentiable, probed.tally.backwards > 0, probed.tally.cases) == (True, True, 30)
    plain = Campaign(describe(toys.right), "cpu", 0, seconds=None, cases=30).run()
    assert (plain.subject.differentiable, plain.tally.backwards) == (None, 0)


def test_in_a_worker_too_a_small_call_finds_out():
    subject = describe(toys.right)
    apart = Apart(lambda: subject, "cpu")
    assert with_differentiability(apart.subject, apart).differentiable is True
    apart.close()


# --- the call


def test_the_leaves_lie_as_the_tensors_of_the_case_do():
    seen = []

    def attention(q, k, v):
        seen.extend((x.stride(), x.requires_grad, x.is_leaf) for x in (q, k, v))
        return toys.right(q, k, v)

    spec = TensorSpec(layout="bshd")
    case = CASE.replace(q=spec, k=spec.replace(layout="expanded_heads"), v=spec, needs_grad=("q", "v"))
    call(describe(attention), case, build(case))
    problem = build(case)
    strides = [x.stride() for x in (problem.q, problem.k, problem.v)]
    assert seen == list(zip(strides, (True, False, True), (True, True, True), strict=True))


def test_the_backward_is_given_dO_as_the_case_says():
    seen = []

    def attention(q, k, v):
        return toys.passed(toys.right(q, k, v), lambda dO: seen.append(dO.stride()) or dO)

    case = CASE.replace(dO=TensorSpec(layout="expanded_all"))
    call(describe(attention), case, build(case))
    assert seen == [(0, 0, 0, 0)]


def test_calls_before_a_case_have_a_backward_too():
    seen = []

    def attention(q, k, v):
        return toys.passed(toys.right(q, k, v), lambda dO: seen.append(tuple(dO.shape)) or dO)

    call(describe(attention), CASE.replace(history=("more_keys", "other_values")), build(CASE))
    assert len(seen) == 3


def test_what_came_back_has_no_graph_any_more():
    result = call(describe(toys.right), CASE, build(CASE))
    assert not result.output.requires_grad
    assert {name: gradient.shape for name, gradient in result.gradients.items()} == {
        "dQ": (2, 2, 5, 4),
        "dK": (2, 1, 5, 4),
        "dV": (2, 1, 5, 4),
    }


def test_a_forward_has_no_gradients():
    result = call(describe(toys.right), CASE.replace(operation="forward"), build(CASE))
    assert result.gradients is None


# --- the campaign


def test_a_campaign_finds_a_wrong_gradient_and_shrinks_it(monkeypatch):
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 3.0)
    done = Campaign(differentiable(toys.doubles_dk), "cpu", 0, seconds=None, cases=60).run()
    (finding,) = done.findings.values()
    assert (finding.verdict.kind, finding.verdict.check) == ("wrong_gradient", "gradient_of_k")
    g = finding.shrunk.geometry
    assert (g.B, g.Hq, g.Hk, g.Nq, g.Nk) == (1, 1, 1, 1, 2)
    assert finding.verdict.votes["odd one out"] == "the subject"


def test_what_is_wrong_with_the_forward_is_told_once(monkeypatch):
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 3.0)
    done = Campaign(differentiable(toys.ignores_causal), "cpu", 0, seconds=None, cases=150).run()
    assert {check for _, check in done.findings} == {"values"}


def test_where_values_hide_a_wrong_mask_the_gradients_are_no_fault_of_their_own():
    hidden = CASE.replace(features=Features(causal=True), v=TensorSpec("constant", layout="expanded_rows"))
    forward = forward_of(hidden)
    assert forward == AttentionCase(CASE.geometry, features=Features(causal=True))
    assert {v.check for v in judge(attempt(describe(toys.ignores_causal), hidden, "cpu"), others=False)} >= {
        "gradient_of_v"
    }
    assert {v.check for v in judge(attempt(describe(toys.ignores_causal), forward, "cpu"), others=False)} == {"values"}


def test_a_right_subject_has_no_failure_and_its_gradients_are_counted():
    done = Campaign(differentiable(toys.right), "cpu", 0, seconds=None, cases=120).run()
    assert done.findings == {}
    assert 0 < done.tally.backwards < 120
    assert 0 < max(closest.ratio for closest in done.tally.closest_gradients.values()) < 1
    assert all(closest.where[0] in "OL" for closest in done.tally.closest.values())


def test_accounts_of_gradients_are_added_up():
    one, other = Tally(), Tally()
    tried = attempt(describe(toys.right), CASE, "cpu")
    one.add(CASE, tried.compared)
    both = Tally.together([one, other, one])
    assert both.backwards == 2
    assert both.worst == max(found.ratio for found in tried.compared.values())
    assert both.closest_gradients["fp32"].where.startswith("d")


SUBJECTS = """
import torch
def attention(q, k, v):
    O = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
    return O.to(q.dtype)
def forward_alone(q, k, v):
    return attention(q, k, v).detach()
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SUBJECTS)
    return tmp_path


in_forks = pytest.mark.skipif(
    torch.cuda.is_available(), reason="torch runs no backward in a fork of a process that ran one with a CUDA device"
)


def fuzz(name, *more):
    return main(["fuzz", "--subject", f"mine.py:{name}", "--cases", "40", "--seed", "1", "--device", "cpu", *more])


@in_forks
def test_the_summary_and_the_json_say_whether_there_are_gradients(project, capsys):
    assert fuzz("attention", "--json", "out.json") == 0
    told = json.loads((project / "out.json").read_text())
    count = told["gradients"]["cases"]
    assert f"  gradients: yes (found), of {count} cases" in capsys.readouterr().out
    assert (told["operation"], told["gradients"]["differentiable"], told["gradients"]["by"]) == ("any", True, "found")
    assert 0 < max(told["gradients"]["worst"].values()) < 1


def test_the_summary_says_why_there_are_none(project, capsys):
    assert fuzz("forward_alone") == 0
    assert "  gradients: no (found: O has no grad_fn)\n" in capsys.readouterr().out


@in_forks
def test_the_command_asks_for_one_operation(project, capsys):
    assert fuzz("attention", "--operation", "forward") == 0
    assert "  gradients: not asked for\n" in capsys.readouterr().out
    assert fuzz("attention", "--operation", "forward_backward") == 0
    assert "  gradients: yes (found), of 40 cases\n" in capsys.readouterr().out
    assert fuzz("forward_alone", "--operation", "forward_backward") == 2
    assert "has no gradients to attest (found: O has no grad_fn)." in capsys.readouterr().err


@in_forks
def test_jobs_know_of_gradients(project, capsys):
    assert fuzz("attention", "--jobs", "2") == 0
    assert "  gradients: yes (found), of " in capsys.readouterr().out


# --- subjects that ship


@pytest.mark.parametrize("name", ["sdpa", "sdpa_math", "sdpa_flash"])
def test_sdpa_is_differentiable(name):
    subject = load(name)
    assert subject.differentiable
    assert [v for v in judge(attempt(subject, CASE, "cpu")) if v.kind != "wrong_gradient"] == []


# --- the example of the documents

EXAMPLE = blocks(ROOT / "docs" / "guide" / "gradients.md", "python")[0]


def example(source):
    made: dict = {}
    exec(source, made)
    tried = attempt(describe(made["attention"]), AttentionCase(operation="forward_backward"), "cpu")
    return {verdict.tensor for verdict in judge(tried, others=False)}


def test_the_example_has_the_fault_that_the_guide_describes():
    assert example(EXAMPLE) == {"dQ", "dK"}
    dS = "dP = dO.double() @ v.mT; dS = P * (dP - (P * dP).sum(-1, keepdim=True))"
    assert example(EXAMPLE.replace("dS = P * (dO.double() @ v.mT)", dS)) == set()
