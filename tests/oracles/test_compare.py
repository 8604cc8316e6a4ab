"""`compare` says what is right, what is wrong, and where the error is worst."""

import math

import pytest
import torch

from oracles import compare

INF, NAN = math.inf, math.nan


def one(got, want, budget, dtype=torch.float32):
    return compare(torch.tensor([got], dtype=dtype), torch.tensor([want]).double(), torch.tensor([budget]).double())


@pytest.mark.parametrize(
    ("got", "want", "budget", "ratio"),
    [
        (1.0, 1.0, 0.5, 0.0),
        (1.25, 1.0, 0.5, 0.5),
        (1.5, 1.0, 0.5, 1.0),
        (2.0, 1.0, 0.5, 2.0),
        (0.0, 0.0, 0.0, 0.0),
        (1e-30, 0.0, 0.0, INF),
        (NAN, 1.0, 0.5, INF),
        (1.0, NAN, NAN, INF),
        (NAN, NAN, NAN, 0.0),
        (INF, 1.0, 0.5, INF),
        (INF, INF, NAN, 0.0),
        (-INF, INF, NAN, INF),
        (1.0, INF, INF, 0.0),
        (NAN, 1.0, INF, 0.0),
        (-INF, -INF, 0.0, 0.0),
        (INF, -INF, 0.0, INF),
        (0.0, -INF, 0.0, INF),
        (1.0, 1.0, NAN, 0.0),
        (2.0, 1.0, NAN, INF),
    ],
)
def test_the_ratio_of_one_element(got, want, budget, ratio):
    found = one(got, want, budget)
    assert found.ratio == ratio
    assert found.ok == (ratio <= 1)


@pytest.mark.parametrize(
    ("got", "want", "ok"),
    [
        (INF, 65500.0, True),
        (-INF, -65500.0, True),
        (-INF, 65500.0, False),
        (INF, 60000.0, False),
        (NAN, 65500.0, False),
    ],
)
def test_infinity_is_right_where_the_store_may_overflow(got, want, ok):
    assert one(got, want, 40.0, torch.float16).ok == ok


def test_the_worst_element_is_named():
    want, budget = torch.zeros(2, 3, 4).double(), torch.ones(2, 3, 4).double()
    got = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    got[0, 1, 2], got[1, 2, 1] = 0.5, -4.0
    found = compare(got, want, budget)
    assert (found.index, found.got, found.wanted, found.error, found.budget, found.ratio) == ((1, 2, 1), -4, 0, 4, 1, 4)
    assert found.is_finite


def test_nan_is_worse_than_any_number():
    found = compare(torch.tensor([1e30, NAN]), torch.zeros(2).double(), torch.ones(2).double())
    assert found.index == (1,)
    assert not found.is_finite


def test_strides_do_not_matter():
    got, want = torch.arange(6.0).view(2, 3).T, torch.arange(6.0).view(2, 3).T.contiguous().double()
    assert compare(got, want, torch.ones(3, 2).double()).ratio == 0


def test_nothing_is_right():
    empty = torch.zeros(2, 0, 3)
    assert compare(empty, empty.double(), empty.double()).ok


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"must have one shape, not \(2,\), \(1,\), \(2,\)"):
        compare(torch.zeros(2), torch.zeros(1).double(), torch.zeros(2).double())
