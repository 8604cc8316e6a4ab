"""A power of two keeps the bits of sums of normal numbers; tensor cores do not keep them for subnormal ones."""

import pytest
import torch

from harness.judging.relations import RELATIONS, Base, check_relations
from harness.judging.relations.subnormals import is_scaled_in_bits
from harness.recall.faults import CONTROLS
from harness.recall.faults.backward_blocks import Differentiable
from harness.recall.faults.witness import case, gradients
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from tests.harness import toys
from tests.harness.judging.test_relations import verdicts_of

LEAST = torch.finfo(torch.float16).smallest_normal
ON_TENSOR_CORES = CONTROLS["backward-on-tensor-cores"].subject()
ONE_KEY = {"d": 64, "Nq": 40, "Nk": 1, "dtype": "fp16", "scale": 1.0, "return_lse": True}


def off_by_a_bit_at(size):
    """Right but for LSE, which is one bit off where the scale is this one."""

    def attention(q, k, v, scale=None, return_lse=False):
        O, LSE = toys.right(q, k, v, scale=scale, return_lse=True)
        LSE = LSE.nextafter(torch.full_like(LSE, torch.inf)) if scale == size else LSE
        return (O, LSE) if return_lse else O

    return attention


def found_on_tensor_cores(tried, name):
    return [v.kind for v in check_relations(attempt(ON_TENSOR_CORES, tried, "cpu"), also=[name]) if v.check == name]


@pytest.mark.parametrize("values", ["normal", "denormal"])
def test_tensor_cores_break_no_promise(values):
    tried = case(**ONE_KEY, values=(values, "normal", "normal"))
    assert found_on_tensor_cores(tried, "scale_against_q") == []


def test_the_promise_would_be_broken_by_subnormal_numbers(monkeypatch):
    """Or the test above would say nothing."""
    monkeypatch.setattr(
        "harness.judging.relations.powers.is_scaled_in_bits", lambda x, dim: torch.ones_like(x[..., :1]) == 1
    )
    tried = case(**ONE_KEY, values=("denormal", "normal", "normal"))
    assert found_on_tensor_cores(tried, "scale_against_q") == ["wrong_lse"]


@pytest.mark.parametrize(("values", "kinds"), [("normal", ["wrong_lse"]), ("denormal", [])])
def test_a_bit_counts_where_q_is_normal(values, kinds):
    tried = case(**ONE_KEY, values=(values, "normal", "normal"))
    assert [v.kind for v in verdicts_of(off_by_a_bit_at(0.25), tried, ["scale_against_q"])] == kinds


def test_which_numbers_are_scaled_in_bits():
    x = torch.tensor([[1, LEAST, 0.0], [1, -LEAST / 2, 2], [torch.nan, torch.inf, -1]], dtype=torch.float16)
    assert is_scaled_in_bits(x, -1).tolist() == [[True], [False], [True]]
    assert is_scaled_in_bits(x, -2).tolist() == [[True, False, True]]
    assert is_scaled_in_bits(x[:, :0], -1).all()


def claims(name, subject, tried):
    """By the tensors that they are about."""
    base = Base.of(attempt(describe(subject, "toy"), tried, "cpu"))
    return base, {claim.tensor: claim for claim in RELATIONS[name].claims(base)}


def test_columns_of_v_decide_for_columns_of_o():
    base, found = claims("linear_in_v", toys.right, case(9, 7, 32, Hq=4, Hk=2, dtype="fp16", values="tiny"))
    of_columns = is_scaled_in_bits(base.problem.v, -2).repeat_interleave(2, 1).expand(base.O.shape)
    assert not of_columns.all()
    assert (found["O"].exact == (of_columns & (base.O.abs() > LEAST))).all()
    assert found["O"].exact.any()


class Exact(Differentiable):
    __flashattest__ = {**Differentiable.__flashattest__, "exact": ("deterministic", "scale_invariant")}  # noqa: RUF012


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_rows_and_columns_of_dO_decide_for_gradients(heads):
    Hq, Hk = heads
    base, found = claims("linear_in_dO", Exact(), gradients(9, 7, 32, Hq=Hq, Hk=Hk, dtype="fp16", dO_values="tiny"))
    is_small = (base.problem.dO.abs() < LEAST) & (base.problem.dO != 0)
    of_heads = is_small.unflatten(1, (Hk, Hq // Hk))
    small_in = {
        "dQ": is_small.any(-1, keepdim=True),
        "dV": of_heads.any(2).any(-2, keepdim=True),
        "dK": of_heads.any(2).any((-2, -1))[..., None, None],
    }
    for name, small in small_in.items():
        assert not (found[name].exact & small).any()
        large = base.gradients[name].abs() > 2.0**-14
        assert (found[name].exact | small | ~large).all()
    assert found["dV"].exact.any()


@pytest.mark.parametrize("values", ["tiny", "denormal"])
def test_gradients_of_tensor_cores_are_silent_on_subnormal_dO(values):
    tried = gradients(9, 7, 32, dtype="fp16", dO_values=values)
    assert found_on_tensor_cores(tried, "linear_in_dO") == []
