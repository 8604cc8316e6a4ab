"""Fresh memory holds NaN inside a subject's call, and a snapshot tells an element from its surroundings."""

import pytest
import torch

from harness.memory import GuardedAllocations, Snapshot

ALLOCATIONS = {
    "empty": lambda: torch.empty(3),
    "empty_like": lambda: torch.empty_like(torch.ones(3)),
    "empty_strided": lambda: torch.empty_strided((3,), (2,)),
    "new_empty": lambda: torch.ones(3).new_empty(3),
    "new_empty_strided": lambda: torch.ones(3).new_empty_strided((3,), (1,)),
    "empty_permuted": lambda: torch.empty_permuted((3, 2), (1, 0)),
}


@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_fresh_memory_is_nan(allocate):
    with GuardedAllocations():
        assert allocate().isnan().all()


def test_other_functions_are_left_alone():
    with GuardedAllocations():
        assert torch.equal(torch.zeros(3), torch.ones(3) - 1)
        assert torch.empty(3, dtype=torch.int32).dtype is torch.int32


def sliced():
    buffer = torch.zeros(8)
    return buffer, buffer[1::2]


def test_nothing_changed():
    _, tensor = sliced()
    snapshot = Snapshot([tensor])
    assert snapshot.changed() == snapshot.changed_outside() == []


def test_an_element_changed():
    _, tensor = sliced()
    snapshot = Snapshot([tensor])
    tensor[0] = 1
    assert (snapshot.changed(), snapshot.changed_outside()) == ([0], [])


@pytest.mark.parametrize("place", [0, 2, 6])
def test_a_gap_changed(place):
    buffer, tensor = sliced()
    snapshot = Snapshot([torch.ones(1), tensor])
    buffer[place] = 1
    assert (snapshot.changed(), snapshot.changed_outside()) == ([], [1])


def test_nan_for_nan_is_no_change():
    tensor = torch.full((3,), torch.nan)
    snapshot = Snapshot([tensor])
    tensor.copy_(torch.full((3,), torch.nan))
    assert snapshot.changed() == []
