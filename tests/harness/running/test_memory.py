"""New memory holds NaN and is guarded in a subject's call; a snapshot separates elements from their surroundings."""

import pytest
import torch

from harness.running.memory import BAND, GuardedAllocations, Snapshot, zero_outside

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


LIKE_ZEROS = {
    "zeros": lambda: torch.zeros(3, 2),
    "zeros_like": lambda: torch.zeros_like(torch.ones(3, 2)),
    "new_zeros": lambda: torch.ones(1).new_zeros(3, 2),
    "full": lambda: torch.full((3, 2), 0.0),
}


@pytest.mark.parametrize("allocate", LIKE_ZEROS.values(), ids=LIKE_ZEROS)
def test_filled_memory_keeps_its_contents(allocate):
    with GuardedAllocations():
        assert torch.equal(allocate(), torch.ones(3, 2) - 1)


@pytest.mark.parametrize("allocate", [*ALLOCATIONS.values(), *LIKE_ZEROS.values()], ids=[*ALLOCATIONS, *LIKE_ZEROS])
def test_shape_strides_dtype_and_alignment_are_those_asked_for(allocate):
    wanted = allocate()
    with GuardedAllocations():
        got = allocate()
    assert (got.shape, got.stride(), got.dtype, got.device) == (
        wanted.shape,
        wanted.stride(),
        wanted.dtype,
        wanted.device,
    )
    assert got.data_ptr() % 64 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
@pytest.mark.parametrize("place", [-1, 6, 6 + 100, -100])
def test_a_write_beside_a_fresh_tensor_is_told(dtype, place):
    with GuardedAllocations() as guarded:
        fresh, other = torch.empty(2, 3, dtype=dtype), torch.zeros(5, dtype=dtype)
    assert guarded.written_outside() == []
    fresh.as_strided((1,), (1,), fresh.storage_offset() + place).fill_(1)
    fresh.fill_(1), other.fill_(1)
    (overrun,) = guarded.written_outside()
    assert "shape (2, 3)" in overrun
    assert "torch.empty" in overrun


def test_a_guarded_tensor_can_be_resized_and_found_by_its_storage():
    with GuardedAllocations():
        fresh = torch.empty(4)
    start = fresh.untyped_storage().data_ptr() + fresh.storage_offset() * fresh.element_size()
    assert fresh.data_ptr() == start
    assert fresh.resize_(8).shape == (8,)
    assert fresh.untyped_storage().nbytes() >= 2 * BAND


def test_out_and_gradients_are_left_alone():
    with GuardedAllocations():
        given = torch.ones(3)
        assert torch.zeros(3, out=given) is given
        assert torch.empty(3, requires_grad=True).is_leaf


def test_what_vmap_batches_is_left_alone():
    with GuardedAllocations():
        zeros = torch.vmap(lambda x: x.new_zeros(2) + x)(torch.ones(3))
    assert torch.equal(zeros, torch.ones(3, 2))


def test_zero_outside_keeps_the_elements():
    buffer, tensor = sliced()
    buffer.fill_(torch.nan)
    tensor.copy_(torch.arange(4.0))
    emptied = zero_outside(tensor)
    assert torch.equal(emptied, tensor)
    assert emptied.stride() == tensor.stride()
    assert torch.equal(emptied.as_strided((8,), (1,), 0), torch.tensor([0.0, 0, 0, 1, 0, 2, 0, 3]))


def sliced():
    buffer = torch.zeros(8)
    return buffer, buffer[1::2]


def test_nothing_changed():
    _, tensor = sliced()
    snapshot = Snapshot([tensor])
    assert snapshot.changes() == ([], [])


def test_an_element_changed():
    _, tensor = sliced()
    snapshot = Snapshot([tensor])
    tensor[0] = 1
    assert snapshot.changes() == ([0], [])


@pytest.mark.parametrize("place", [0, 2, 6])
def test_a_gap_changed(place):
    buffer, tensor = sliced()
    snapshot = Snapshot([torch.ones(1), tensor])
    buffer[place] = 1
    assert snapshot.changes() == ([], [1])


def test_nan_for_nan_is_no_change():
    tensor = torch.full((3,), torch.nan)
    snapshot = Snapshot([tensor])
    tensor.copy_(torch.full((3,), torch.nan))
    assert snapshot.changes() == ([], [])
