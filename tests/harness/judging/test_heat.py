"""A heat map shows where a failure is, aligns with tile edges, and is small enough to save."""

import json
import math

import pytest
import torch

from harness.judging.heat import MOST_CELLS, HeatMap, heat_map, pool
from harness.judging.judge import judge
from harness.report.heat_map import words
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from strategies import AttentionCase, Features, Geometry
from tests.harness import toys


def mapped(function, geometry, also=(), **features):
    tried = attempt(describe(function), AttentionCase(geometry, features=Features(**features)), "cpu")
    verdicts = judge(tried, also=also, others=False)
    return heat_map(tried, verdicts[0])


def wrong_tail(q, k, v):
    O = toys.right(q, k, v)
    O[1:, 1:, 64:, 8:] += 1
    return O


def wrong_last_dq(q, k, v):
    def off(dQ):
        return torch.cat([dQ[:, :, :-1], dQ[:, :, -1:] + 1], dim=2)

    return toys.right(toys.passed(q, off), k, v)


def test_a_wrong_tail_is_where_it_is():
    found = mapped(wrong_tail, Geometry(B=2, Hq=2, Hk=2, Nq=70, Nk=3, d=16))
    assert (found.tensor, found.batch, found.head, found.shape, found.cell) == ("O", 1, 1, (70, 16), (4, 1))
    assert found.over == [(i, j) for i in (16, 17) for j in range(8, 16)]


def test_lse_is_mapped_over_rows_and_heads():
    found = mapped(toys.lse_in_base_2, Geometry(Hq=3, Hk=3, Nq=5, Nk=4), return_lse=True)
    assert (found.tensor, found.head, found.shape) == ("LSE", None, (5, 3))
    assert len(found.over) == 15


@pytest.mark.parametrize(("function", "tensor", "rows"), [(toys.doubles_dk, "dK", 3), (wrong_last_dq, "dQ", 5)])
def test_a_gradient_is_mapped_over_its_rows_and_columns(function, tensor, rows):
    case = AttentionCase(Geometry(Hq=4, Hk=2, Nq=5, Nk=3, d=4), operation="forward_backward")
    tried = attempt(describe(function), case, "cpu")
    found = heat_map(tried, judge(tried, others=False)[0])
    assert (found.tensor, found.shape) == (tensor, (rows, 4))
    assert found.over == [(i, j) for i in range(rows) for j in range(4) if tensor == "dK" or i == 4]
    assert HeatMap.from_json(found.to_json()) == found
    assert ("keys by columns" if tensor == "dK" else "rows by columns") in words(found)


def test_nan_is_infinite_and_the_head_with_most_of_it_is_shown():
    def nans(q, k, v):
        O = toys.right(q, k, v)
        O[0, 0, 0], O[0, 1, :] = math.nan, math.nan
        return O

    found = mapped(nans, Geometry(Hq=2, Hk=2, Nq=4, Nk=4))
    assert (found.head, found.worst, len(found.over)) == (1, math.inf, 4)


def test_a_relation_is_mapped_by_the_calls_that_it_compares():
    calls = iter(range(1000))

    def drifts(q, k, v):
        O = toys.right(q, k, v)
        O[:, :, 2:] += next(calls)
        return O

    found = mapped(drifts, Geometry(Nq=4, Nk=4), also=["same_call_twice"])
    assert {row for row, _ in found.over} == {2, 3}


def test_what_is_no_number_has_no_map():
    assert mapped(toys.raises_on_long_keys, Geometry(Nk=65)) is None


@pytest.mark.parametrize(("rows", "cell"), [(1, 1), (32, 1), (33, 2), (65, 4), (200, 8), (4097, 256)])
def test_cells_are_powers_of_2_and_few(rows, cell):
    found = pool(torch.zeros(rows, 1), "O", 0, 0)
    assert found.cell == (cell, 1)
    assert len(found.cells) <= MOST_CELLS


def test_rounding_never_hides_what_is_over_budget():
    found = pool(torch.tensor([[1.0001, 1.0]], dtype=torch.float64), "O", 0, 0)
    assert found.over == [(0, 0)]


def test_a_map_is_read_back():
    found = pool(torch.tensor([[0.25, math.inf]]), "O", 0, 0)
    assert HeatMap.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "change",
    [
        {"tensor": "q"},
        {"cells": [[0.5]]},
        {"cells": [["<b>", 1]]},
        {"cells": [["nan", 1]]},
        {"cell": [0, 1]},
        {"shape": [1, 99]},
        {"batch": -1},
        {"more": 1},
    ],
)
def test_no_other_map_is_read(change):
    plain = pool(torch.zeros(1, 2), "O", 0, 0).to_json()
    with pytest.raises(ValueError, match=r"\.$"):
        HeatMap.from_json(plain | change)
