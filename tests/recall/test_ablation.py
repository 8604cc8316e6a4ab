"""Each ablation leaves its part out for as long as it lasts, and what only that part finds is then missed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import find

from harness.errors import CannotRun
from harness.judging.checks import CHECKS
from harness.judging.judge import judge
from harness.judging.relations import RELATIONS
from harness.recall.ablation import ABLATIONS, NUMBERS, ablation
from harness.recall.faults import FAULTS
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from strategies import AttentionCase, Geometry
from tests.harness import toys


def kinds(name, subject, case):
    with ablation(name).applied():
        return {verdict.kind for verdict in judge(attempt(subject, case, "cpu"))}


def test_relations_are_left_out_and_come_back():
    known = set(RELATIONS)
    with ablation("without relations").applied():
        assert not RELATIONS
        assert CHECKS
    assert set(RELATIONS) == known


def test_float64_alone_keeps_the_numbers():
    with ablation("float64 alone").applied():
        assert set(CHECKS) == NUMBERS
        assert not RELATIONS
    case, subject = AttentionCase(), describe(toys.scales_in_place)
    assert "input_mutated" in kinds("whole", subject, case)
    assert "input_mutated" not in kinds("float64 alone", subject, case)


def test_a_single_check_is_left_out():
    fault = FAULTS["padding-zeroed"]
    assert "input_mutated" in kinds("whole", fault.subject(), fault.witness)
    assert not kinds("without inputs_unchanged", fault.subject(), fault.witness)


def test_a_fixed_tolerance_misses_the_small_and_alarms_on_the_large():
    slightly_wrong = describe(lambda q, k, v: toys.right(q, k, v) * 1.004)
    ordinary = AttentionCase(Geometry(Nq=2, Nk=2, d=16))
    assert "wrong_values" in kinds("whole", slightly_wrong, ordinary)
    assert not kinds("fixed 1e-2 for a budget", slightly_wrong, ordinary)


def test_a_fixed_tolerance_holds_of_gradients_too():
    fault = FAULTS["bwd-tf32-products"]
    assert "wrong_gradient" in kinds("whole", fault.subject(), fault.witness)
    assert not kinds("fixed 1e-2 for a budget", fault.subject(), fault.witness)


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("normal values alone", lambda case: {spec.values for spec in (case.q, case.k, case.v)} != {"normal"}),
        ("contiguous layouts alone", lambda case: {spec.layout for spec in (case.q, case.k, case.v)} != {"contiguous"}),
        ("without earlier calls", lambda case: case.history != ()),
    ],
)
def test_what_is_drawn_is_narrowed(name, drawn):
    assert find(describe(toys.right).cases(), drawn)
    narrowed = ablation(name).subject(describe(toys.right))
    assert not [case for case in some(narrowed) if drawn(case)]
    assert narrowed.name == describe(toys.right).name


def some(subject):
    from tests.faults.drawn import cases

    return cases(subject, 60)


@pytest.mark.parametrize("name", ABLATIONS)
def test_what_is_wrong_beyond_doubt_is_found_without_any_part(name):
    wrong = describe(lambda q, k, v: torch.full_like(q, 7.0))
    assert "wrong_values" in kinds(name, wrong, AttentionCase(Geometry(Nq=2, Nk=2, d=16)))


def test_an_unknown_part_is_refused():
    with pytest.raises(CannotRun, match="without"):
        ablation("without everything")
