"""Running out of memory is a refusal on a large problem, and a failure on a small one."""

import pytest
import torch

from harness.errors import Refused
from harness.running.call import call, is_large, is_out_of_memory
from harness.subject.declaration import describe
from strategies import AttentionCase, Geometry, build
from tests.harness import toys

SMALL, LARGE = AttentionCase(Geometry(Nk=2)), AttentionCase(Geometry(Nq=1 << 14, Nk=1 << 14))


def said_by(run):
    try:
        run()
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: bytearray(1 << 62),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")),
    ],
    ids=["torch on a CPU", "Python", "torch on CUDA"],
)
def test_no_memory_is_told_by_what_the_exception_says(run):
    assert is_out_of_memory(said_by(run))


def test_another_exception_is_not_about_memory():
    assert not is_out_of_memory(said_by(lambda: torch.empty(2).view(3)))


def test_a_problem_is_large_by_its_scores_or_by_its_tensors():
    assert is_large(LARGE)
    assert is_large(AttentionCase(Geometry(B=1 << 12, Nk=1 << 6, d=1 << 10)))
    assert not is_large(SMALL)
    assert not is_large(AttentionCase(Geometry(Nq=1 << 13, Nk=1 << 13)))


def runs_out(q, k, v):
    raise MemoryError


def test_no_memory_for_a_large_problem_is_a_refusal():
    with pytest.raises(Refused, match="out of memory"):
        call(describe(runs_out), LARGE, build(LARGE))


def test_no_memory_for_a_small_problem_is_a_failure():
    assert isinstance(call(describe(runs_out), SMALL, build(SMALL)).raised, MemoryError)


def test_a_backward_takes_more_memory_than_its_forward():
    forward = AttentionCase(Geometry(Nq=1 << 13, Nk=1 << 13))
    assert is_large(forward.replace(operation="forward_backward"))
    assert not is_large(forward)


def test_no_memory_in_the_backward_is_told_as_in_the_forward(monkeypatch):
    def fail(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    case = SMALL.replace(operation="forward_backward")
    subject = describe(lambda q, k, v: toys.passed(toys.right(q, k, v), fail), "toy")
    result = call(subject, case, build(case))
    assert (isinstance(result.raised, torch.OutOfMemoryError), result.in_backward) == (True, True)
    monkeypatch.setattr("harness.running.call.LARGE_BYTES", 1)
    with pytest.raises(Refused, match="out of memory"):
        call(subject, case, build(case))
