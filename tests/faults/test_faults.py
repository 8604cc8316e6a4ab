"""Every planted fault fires on its witness; every control and every equivalent is silent."""

from __future__ import annotations

import pytest

from harness.recall.faults import CONTROLS, EQUIVALENTS, FAULTS
from harness.running.attempt import attempt
from strategies import AttentionCase
from tests.faults.drawn import DEVICE, cases, verdicts

SMALL = {"max_work": 1 << 12, "max_length": 200}
"""Three key tiles of 64 and a tail, and little time in the interpreter."""
PROCESS = {id: fault for id, fault in FAULTS.items() if fault.where == "process"}
CALLABLE = {id: fault for id, fault in FAULTS.items() if fault.where != "process"}


@pytest.mark.parametrize("id", CALLABLE)
def test_a_fault_fires_on_its_witness(id):
    fault = FAULTS[id]
    also = {fault.relation} - {None}
    found = {verdict.kind for verdict in verdicts(fault.subject(), fault.witness, also)}
    assert found & fault.expects


@pytest.mark.parametrize("id", CALLABLE)
def test_a_witness_is_silent_on_a_control(id):
    fault = FAULTS[id]
    case = fault.witness.replace(features=fault.witness.features.replace(config=None))
    control = "tiles-of-16" if case.operation == "forward" else "backward-16x16"
    assert not verdicts(CONTROLS[control].subject(), case)


@pytest.mark.parametrize("id", PROCESS)
def test_a_process_fault_falls_on_its_witness_and_not_elsewhere(id, monkeypatch):
    subject = FAULTS[id].subject()
    falls = []
    monkeypatch.setattr(subject.function, "fall", lambda: falls.append(id))
    attempt(subject, AttentionCase(), DEVICE)
    assert not falls
    attempt(subject, FAULTS[id].witness, DEVICE)
    assert falls == [id]


@pytest.mark.parametrize("id", CONTROLS)
def test_a_control_is_silent(id):
    subject = CONTROLS[id].subject()
    narrower = SMALL if id.startswith("kernel") else {}
    assert not [(case, found) for case in cases(subject, 40, **narrower) for found in verdicts(subject, case)]


@pytest.mark.parametrize("id", EQUIVALENTS)
def test_an_equivalent_is_silent(id):
    subject = EQUIVALENTS[id].subject()
    drawn = cases(subject, 200, **SMALL)
    assert not [(case, found) for case in drawn for found in verdicts(subject, case)]


def test_every_class_that_a_forward_pass_can_show_is_there():
    """P needs dropout, U a sliding window: features that the kernel does not have."""
    assert set("ABCDEFGHIJKLMNOQRSTVWXYZ") <= {fault.group for fault in FAULTS.values()}


COUNTS = {
    "edits of the kernel": 104,
    "torch functions": 177,
    "functions that end their process": 5,
    "with a backward": 114,
    "with a twin": 59,
    "distinct faults": 227,
    "controls": 34,
    "equivalents": 6,
}


def test_none_is_lost():
    faults = list(FAULTS.values())
    where = [fault.where for fault in faults]
    counts = {
        "edits of the kernel": where.count("kernel"),
        "torch functions": where.count("torch"),
        "functions that end their process": where.count("process"),
        "with a backward": sum(fault.witness.operation == "forward_backward" for fault in faults),
        "with a twin": sum(fault.twin is not None for fault in faults),
        "distinct faults": len({fault.distinct for fault in faults}),
        "controls": len(CONTROLS),
        "equivalents": len(EQUIVALENTS),
    }
    assert counts == COUNTS, "Added or removed something planted? Then change its line, and only its line, in COUNTS."


def test_an_equivalent_has_a_proof():
    assert all(len(equivalent.proof) > 40 for equivalent in EQUIVALENTS.values())


TWINS = {id: fault for id, fault in FAULTS.items() if fault.twin is not None}


@pytest.mark.parametrize("id", TWINS)
def test_the_twin_of_an_edit_is_a_torch_function_with_the_same_signs(id):
    fault, twin = FAULTS[id], FAULTS[FAULTS[id].twin]
    assert (fault.where, twin.where, twin.twin) == ("kernel", "torch", None)
    assert fault.expects & twin.expects
    assert fault.witness.operation == twin.witness.operation


OTHER_TILES = {
    "chained-dot-small-block",
    "kernel-delta-grid-of-other-tile",
    "no-previous-max",
    "row-sum-not-rescaled",
}
"""What these need is two tiles, or a tile of some size: those of the kernel and of the functions differ."""


@pytest.mark.parametrize("id", sorted(TWINS.keys() - OTHER_TILES))
def test_the_witness_of_an_edit_shows_its_twin_too(id):
    fault, twin = FAULTS[id], FAULTS[FAULTS[id].twin]
    case = fault.witness.replace(features=fault.witness.features.replace(config=None))
    assert {verdict.kind for verdict in verdicts(twin.subject(), case, {twin.relation} - {None})} & twin.expects


def test_what_a_witness_needs_is_read_from_it():
    assert FAULTS["splitkv-early-exit-lse-slot"].needs == {"seqlens_k", "return_lse"}
    assert FAULTS["gqa-modulo"].needs == frozenset()


def test_a_subject_starts_without_what_another_one_kept():
    fault = FAULTS["answer-kept-by-shape"]
    first = fault.witness.replace(history=())
    second = first.replace(v=first.v.replace(seed=1))
    assert attempt(fault.subject(), first, DEVICE).compared["O"].ok
    assert attempt(fault.subject(), second, DEVICE).compared["O"].ok
