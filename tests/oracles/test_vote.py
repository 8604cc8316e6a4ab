"""The vote of the oracles shows one that disagrees alone."""

import pytest
import torch

from oracles import ORACLES, Answer, Judgement, Oracle, compare_answer, float64, gradients64, vote
from oracles.registry import answers_all
from strategies import AttentionCase, Features, Geometry, TensorSpec, build

CASE = AttentionCase(Geometry(B=2, Hq=2, Nq=5, Nk=7, d=8), "bf16", Features(True, seqlens_k=(7, 0)), past_end="nan")


@pytest.fixture
def votes():
    def cast(case=CASE):
        return vote(Judgement(build(case)))

    return cast


def who_disagrees(votes):
    return [name for name, comparison in votes.items() if not comparison.ok]


def plant(monkeypatch, compute, why_not=answers_all):
    monkeypatch.setitem(ORACLES, compute.__name__, Oracle(compute.__name__, "Planted.", compute, why_not))


def test_all_agree(votes):
    cast = votes()
    assert {"naive_fp32", "numpy64", "sdpa_math", "sdpa_flash"} <= set(cast)
    assert "float64" not in cast
    assert all(comparison.ok for comparison in cast.values())


def test_one_that_disagrees_shows(votes, monkeypatch):
    def all_zero(problem):
        return Answer(problem.q * 0)

    plant(monkeypatch, all_zero)
    assert who_disagrees(votes()) == ["all_zero"]


def test_a_wrong_lse_counts(votes, monkeypatch):
    def unlogged(problem):
        truth = float64(problem)
        return Answer(truth.O, truth.LSE + 1)

    plant(monkeypatch, unlogged)
    assert who_disagrees(votes()) == ["unlogged"]


def test_an_oracle_is_held_to_its_own_precision(votes, monkeypatch):
    def single(problem):
        return Answer(float64(problem).O.float().double())

    plant(monkeypatch, single)
    assert not votes()["single"].ok
    assert votes()["naive_fp32"].budget < votes()["sdpa_math"].budget


def test_an_oracle_is_not_held_to_the_subjects_cast_of_p():
    problem = build(CASE)
    exact_P = Judgement(problem, p_dtype=torch.float32)
    assert vote(exact_P) == vote(Judgement(problem))
    assert not exact_P.forward_budget.is_for(torch.bfloat16)


def test_who_cannot_answer_does_not_vote(votes, monkeypatch):
    def refuses(problem):
        raise NotImplementedError

    def lacks_a_device(problem):
        raise AssertionError

    plant(monkeypatch, refuses)
    plant(monkeypatch, lacks_a_device, lambda problem: "there is none")
    assert not {"refuses", "lacks_a_device"} & set(votes())


def test_wrong_gradients_count(votes, monkeypatch):
    def lacks_the_scale(problem):
        truth = float64(problem)
        right = gradients64(problem, truth)
        return Answer(truth.O, truth.LSE, right.by_name | {"dQ": right["dQ"] / problem.scale})

    plant(monkeypatch, lacks_the_scale)
    asked = CASE.replace(
        operation="forward_backward", dLSE=TensorSpec(), features=CASE.features.replace(return_lse=True)
    )
    assert who_disagrees(votes(asked)) == ["lacks_the_scale"]


def test_each_tensor_of_an_answer_is_compare_answer_by_name():
    problem = build(CASE.replace(operation="forward_backward"))
    found = compare_answer(ORACLES["naive_fp32"](problem), Judgement(problem))
    assert list(found) == ["O", "LSE", "dQ", "dK", "dV"]
    assert all(comparison.ok for comparison in found.values())


def test_a_backend_without_lse_gives_dV_alone_where_a_gradient_comes_through_it():
    features = CASE.features.replace(return_lse=True)
    problem = build(CASE.replace(operation="forward_backward", features=features, dLSE=TensorSpec()))
    assert list(ORACLES["sdpa_math"](problem).gradients) == ["dV"]
