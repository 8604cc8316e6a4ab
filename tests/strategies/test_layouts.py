"""Every layout: where the elements lie, and that it does not change the values."""

from itertools import product

import numpy as np
import pytest
import torch

from strategies import AttentionCase, Features, Geometry, TensorSpec, build, checksum
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.tensors import GUARD

SHAPE = (2, 3, 5, 4)
CASE = AttentionCase(Geometry(2, 3, 3, 5, 5, 4))
EXPANDED = {"expanded_batch": 0, "expanded_heads": 1, "expanded_rows": 2}
PLACES = {
    "contiguous": ((60, 20, 4, 1), 0),
    "bshd": ((60, 4, 12, 1), 0),
    "sliced": ((120, 40, 8, 1), 4),
    "packed_qkv": ((180, 4, 36, 1), 12),
    "padded_rows": ((105, 35, 7, 1), 0),
    "offset_by_one": ((60, 20, 4, 1), 1),
    "column_major": ((60, 20, 1, 5), 0),
    "expanded_batch": ((0, 20, 4, 1), 0),
    "expanded_heads": ((20, 0, 4, 1), 0),
    "expanded_rows": ((12, 4, 0, 1), 0),
}


def laid_out(layout, case=CASE):
    return case.replace(**{role: TensorSpec(layout=layout) for role in "qkv"})


def test_every_layout_is_tested_here():
    assert set(PLACES) == set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_lie_where_the_layout_says(layout):
    problem = build(laid_out(layout))
    strides, offset = PLACES[layout]
    for tensor in (problem.q, problem.k, problem.v):
        assert tensor.shape == SHAPE
        assert (tensor.stride(), tensor.storage_offset()) == (strides, offset + GUARD)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_two_elements_share_a_place_unless_expanded(layout):
    strides = LAYOUTS[layout](SHAPE).strides
    places = [sum(i * s for i, s in zip(index, strides, strict=True)) for index in product(*map(range, SHAPE))]
    repeats = SHAPE[EXPANDED[layout]] if layout in EXPANDED else 1
    assert len(set(places)) == len(places) // repeats


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - set(EXPANDED)))
def test_values_are_the_same_in_every_layout(layout):
    assert checksum(build(laid_out(layout))) == checksum(build(CASE))


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - set(EXPANDED)))
@pytest.mark.parametrize("geometry", [Geometry(), Geometry(Nq=2, Nk=3), Geometry(Hq=2, Hk=2, d=2), Geometry(Nq=0)])
def test_sizes_of_1_have_a_checksum_in_every_layout(layout, geometry):
    assert checksum(build(laid_out(layout, AttentionCase(geometry)))) == checksum(build(AttentionCase(geometry)))


@pytest.mark.parametrize(("layout", "dim"), EXPANDED.items())
def test_an_expanded_tensor_repeats_its_first_part(layout, dim):
    dense, expanded = build(CASE).q, build(laid_out(layout)).q
    assert torch.equal(expanded, dense.narrow(dim, 0, 1).expand(SHAPE))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_everything_around_the_elements_is_nan(layout, dtype):
    for tensor in vars(build(laid_out(layout, CASE.replace(dtype=dtype)))).values():
        if isinstance(tensor, torch.Tensor):
            own, whole = addresses(tensor), storage(tensor)
            assert whole[own].isfinite().all()
            around = np.setdiff1d(np.arange(len(whole)), own)
            assert whole[around].isnan().all()
            assert own.min() >= GUARD
            assert len(whole) - 1 - own.max() >= GUARD


@pytest.mark.parametrize("geometry", [Geometry(Nq=0), Geometry(Nk=0), Geometry(2, 2, 1, 0, 0, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_tensors_have_their_shape(layout, geometry):
    problem = build(laid_out(layout, AttentionCase(geometry)))
    assert (problem.q.shape, problem.k.shape) == (geometry.q_shape, geometry.k_shape)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_alignment_is_the_layout_s_alone(dtype):
    aligned = build(CASE.replace(dtype=dtype)).q
    assert aligned.data_ptr() % 16 == 0
    assert build(laid_out("offset_by_one", CASE.replace(dtype=dtype))).q.data_ptr() % 16 == aligned.element_size()


@pytest.mark.parametrize("layout", GRADIENT_LAYOUTS)
@pytest.mark.parametrize("role", ["dO", "dLSE"])
def test_gradients_lie_where_their_layout_says_between_nan(role, layout):
    features, spec = Features(return_lse=True), TensorSpec(layout=layout)
    case = CASE.replace(operation="forward_backward", features=features, dtype="bf16", dLSE=TensorSpec())
    tensor = getattr(build(case.replace(**{role: spec})), role)
    shape = SHAPE if role == "dO" else (*SHAPE[:3], 1)
    assert tensor.stride() == GRADIENT_LAYOUTS[layout](shape).strides[: tensor.ndim]
    own, whole = addresses(tensor), storage(tensor)
    assert whole[own].isfinite().all()
    assert whole[np.setdiff1d(np.arange(len(whole)), own)].isnan().all()


def test_expanded_all_is_one_number():
    dO = build(CASE.replace(operation="forward_backward", dO=TensorSpec(layout="expanded_all"))).dO
    assert dO.stride() == (0, 0, 0, 0)
    assert torch.equal(dO, dO[0, 0, 0, 0].expand(SHAPE))


def addresses(tensor):
    """Positions in its storage of all elements of a tensor."""
    strides = np.array(tensor.stride())
    return np.unique(np.indices(tensor.shape).reshape(tensor.ndim, -1).T @ strides + tensor.storage_offset())


def storage(tensor):
    """All elements of a tensor's storage."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((count,), (1,), 0)
