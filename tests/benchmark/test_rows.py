"""Rows: the operations they count, the keys they show, and what they refuse."""

from itertools import product

import pytest
import torch

from speed.presets import HIDDEN, PRESETS, TOKENS
from speed.rows import PASSES, Row, make_inputs, visible, visible_pairs


def brute_pairs(N, length, causal):
    """One by one; on the diagonal a pair counts half."""
    pairs = 0.0
    for i, j in product(range(N), range(length)):
        pairs += (1.0 if j < i else 0.5 if i == j else 0.0) if causal else 1.0
    return pairs


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("N", "length"), [(1, 1), (5, 5), (8, 3), (7, 6), (16, 1)])
def test_pairs_are_those_that_one_counts(N, length, causal):
    assert visible_pairs(N, length, causal) == brute_pairs(N, length, causal)


def test_causal_counts_exactly_half():
    full, causal = (Row(N=96, d=32, B=2, Hq=3, Hk=3, causal=causal) for causal in (False, True))
    assert full.flops == 4 * 2 * 3 * 96 * 96 * 32 == 2 * causal.flops


def test_a_backward_counts_two_and_a_half_forwards():
    forward, backward = (Row(N=96, d=32, causal=True, direction=pass_) for pass_ in PASSES)
    assert backward.flops == 2.5 * forward.flops


def test_a_backward_row_has_the_forwards_inputs_and_a_gradient_of_o():
    forward, backward = (make_inputs(Row(N=8, d=4, Hq=4, Hk=2, direction=pass_), "cpu") for pass_ in PASSES)
    assert forward.dO is None
    assert backward.dO.shape == backward.q.shape
    assert all(torch.equal(getattr(forward, name), getattr(backward, name)) for name in "qkv")


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_flops_of_a_padded_row_are_those_of_its_mask(causal, ragged):
    row = Row(N=12, d=4, B=3, Hq=2, Hk=1, causal=causal, padding=0.5, ragged=ragged)
    mask = visible(row, make_inputs(row, "cpu")).expand(3, 1, 12, 12)
    on_diagonal = mask.diagonal(dim1=-2, dim2=-1).sum() if causal else 0
    assert row.flops == 4 * 4 * 2 * float(mask.sum() - on_diagonal / 2)


@pytest.mark.parametrize("padding", [0.25, 0.5, 0.75])
def test_ragged_lengths_differ_around_the_same_mean(padding):
    row = Row(N=1024, d=64, B=4, padding=padding, ragged=True)
    assert sum(row.lengths) == 4 * 1024 * (1 - padding)
    assert len(set(row.lengths)) == 4
    assert all(1 <= length <= 1024 for length in row.lengths)


def test_a_row_without_padding_passes_no_lengths():
    assert make_inputs(Row(N=8, d=4), "cpu").seqlens_k is None


def test_inputs_are_not_zeros_and_the_same_again():
    row = Row(N=8, d=4, dtype="fp16")
    one, other = make_inputs(row, "cpu", 3), make_inputs(row, "cpu", 3)
    assert torch.equal(one.q, other.q)
    assert (one.q != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    "wrong", [{"Hq": 3, "Hk": 2}, {"padding": 1.0}, {"padding": -0.1}, {"dtype": "int8"}, {"N": 0}, {"B": 0}]
)
def test_a_row_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        Row(**{"N": 8, "d": 4, **wrong})


def test_the_table_of_peers_has_its_18_rows_in_each_dtype():
    rows = PRESETS["peers"].rows()
    assert len(rows) == 36
    assert all(row.B * row.N == TOKENS and row.Hq * row.d == HIDDEN for row in rows)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_takes_another_dtype(name):
    assert {row.dtype for row in PRESETS[name].rows(["fp32"])} == {"fp32"}
