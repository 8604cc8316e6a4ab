"""A case as tensors: what K and V hold past the end, and which keys a query sees."""

import hashlib

import pytest
import torch
from hypothesis import given

from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build, checksum

FILLS = {"nan": float("nan"), "inf": float("inf"), "huge": torch.finfo(torch.float16).max}
BACKWARD = {"operation": "forward_backward"}
RAGGED = AttentionCase(Geometry(B=3, Hq=2, Hk=2, Nq=4, Nk=5, d=2), "fp16", Features(seqlens_k=(0, 3, 5)))


def with_layout(layout, case=RAGGED):
    return case.replace(**{role: TensorSpec(layout=layout) for role in "qkv"})


def same(a, b):
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("past_end", FILLS)
@pytest.mark.parametrize("role", ["k", "v"])
def test_what_is_past_the_end_is_filled_and_nothing_else(past_end, role):
    filled, plain = (getattr(build(RAGGED.replace(past_end=name)), role) for name in (past_end, "values"))
    for b, length in enumerate(RAGGED.lengths):
        assert torch.equal(filled[b, :, :length], plain[b, :, :length])
        assert same(filled[b, :, length:], torch.full_like(filled[b, :, length:], FILLS[past_end]))


def test_q_is_never_filled():
    assert torch.equal(build(RAGGED.replace(past_end="nan")).q, build(RAGGED).q)


def test_without_a_fill_the_values_go_on():
    assert build(RAGGED).k.isfinite().all()


def test_a_shared_batch_entry_is_filled_past_the_longest_length():
    ragged = RAGGED.replace(features=Features(seqlens_k=(0, 3, 2)), past_end="nan")
    for k in build(with_layout("expanded_batch", ragged)).k:
        assert k[:, :3].isfinite().all()
        assert k[:, 3:].isnan().all()


def test_a_shared_row_is_never_filled():
    assert build(with_layout("expanded_rows", RAGGED.replace(past_end="nan"))).k.isfinite().all()


@given(case=attention_cases(max_work=1 << 10, gradients=True))
def test_every_visible_key_is_finite(case):
    problem = build(case)
    for b, length in enumerate(case.lengths):
        assert problem.k[b, :, :length].isfinite().all()
        assert problem.v[b, :, :length].isfinite().all()


@given(case=attention_cases(max_work=1 << 10, gradients=True))
def test_a_problem_is_what_its_case_says(case):
    problem, lengths = build(case), case.features.seqlens_k
    assert (problem.q.shape, problem.k.shape, problem.v.shape) == (
        case.geometry.q_shape,
        case.geometry.k_shape,
        case.geometry.k_shape,
    )
    assert {x.dtype for x in (problem.q, problem.k, problem.v)} == {
        {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[case.dtype]
    }
    assert (problem.features, problem.scale, problem.group) == (case.features, case.scale, case.geometry.group)
    assert problem.seqlens_k is None if lengths is None else tuple(problem.seqlens_k.tolist()) == lengths
    assert checksum(problem) == checksum(build(case))


def test_gradients_that_come_back_have_their_shapes_and_dtypes():
    case = RAGGED.replace(operation="forward_backward", needs_grad=("k",), past_end="nan")
    problem = build(case)
    assert (problem.dO.shape, problem.dO.dtype) == (case.geometry.q_shape, torch.float16)
    assert (problem.dLSE, problem.needs_grad) == (None, ("k",))
    assert problem.dO.isfinite().all()
    with_lse = build(case.replace(features=Features(return_lse=True), dLSE=TensorSpec()))
    assert (with_lse.dLSE.shape, with_lse.dLSE.dtype) == (case.geometry.q_shape[:3], torch.float32)


def test_a_forward_problem_has_none():
    problem = build(RAGGED)
    assert (problem.dO, problem.dLSE, problem.needs_grad) == (None, None, ())
    assert list(problem.tensors) == ["q", "k", "v"]


def test_every_tensor_of_a_seed_has_numbers_of_its_own():
    case = AttentionCase(Geometry(Nq=8, Nk=8), features=Features(return_lse=True), dLSE=TensorSpec(), **BACKWARD)
    values = [tensor.flatten().tolist() for tensor in build(case).tensors.values()]
    assert len({number for row in values for number in row}) == 5 * 8


def test_the_checksum_covers_what_comes_back():
    bare = AttentionCase(Geometry(Nq=2, d=2), features=Features(return_lse=True))
    cases = [bare, bare.replace(**BACKWARD), bare.replace(dLSE=TensorSpec(), **BACKWARD)]
    cases += [bare.replace(dO=TensorSpec(seed=1), **BACKWARD), bare.replace(dLSE=TensorSpec(seed=1), **BACKWARD)]
    assert len({checksum(build(case)) for case in cases}) == 5


def test_checksum_is_over_the_values_in_order():
    problem = build(AttentionCase(Geometry(Nk=3, d=2)))
    values = b"".join(x.numpy().tobytes() for x in (problem.q, problem.k, problem.v))
    assert checksum(problem) == hashlib.sha256(values).hexdigest()
    problem.v[0, 0, 2, 1] += 1
    assert checksum(problem) != hashlib.sha256(values).hexdigest()
