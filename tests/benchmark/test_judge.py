"""The check before timing: it passes what is right in each dtype and pass, and fires on what is not."""

from dataclasses import replace

import pytest
import torch

from speed.judge import judge_of
from speed.passes import calls_of
from speed.providers import named
from speed.rows import DTYPES, PASSES, Row, make_inputs

ROWS = [
    Row(N=80, d=16, B=2, Hq=4, Hk=2),
    Row(N=80, d=16, B=2, Hq=4, Hk=2, causal=True),
    Row(N=80, d=16, B=2, Hq=4, Hk=2, padding=0.5, ragged=True),
    Row(N=80, d=16, B=2, Hq=4, Hk=1, padding=0.25, causal=True),
]
OURS = ("ours", "ours_portable", "ours:config=32x32x4x1")


def returned(row, inputs, name="sdpa_math"):
    """O of a provider, or dQ, dK and dV."""
    with named(name).around():
        return calls_of(named(name), row, inputs).timed()()


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sdpa_math", "sdpa_flash"])
def test_a_peer_is_right(name, dtype, row, direction):
    row = replace(row, dtype=dtype, direction=direction)
    inputs = make_inputs(row, "cpu")
    assert judge_of(row, inputs).error(returned(row, inputs, name)) <= 1


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", OURS)
def test_our_gradients_are_right(name, row):
    row = replace(row, direction="backward")
    inputs = make_inputs(row, "cpu")
    assert judge_of(row, inputs).error(returned(row, inputs, name)) <= 1


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("row", ROWS)
def test_the_truth_is_the_definition_in_float64(row, direction, monkeypatch):
    """Of whole heads and of blocks of 20 queries."""
    monkeypatch.setattr("speed.judge.SCORES", {"cpu": 20 * row.N * row.group})
    row = replace(row, dtype="fp32", direction=direction)
    inputs = make_inputs(row, "cpu")
    double = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    dO = None if inputs.dO is None else inputs.dO.double()
    exact = returned(row, replace(inputs, **dict(zip("qkv", double, strict=True)), dO=dO), "naive")
    got = dict(zip(("dQ", "dK", "dV") if row.backward else ("O",), exact if row.backward else (exact,), strict=True))
    pieces = judge_of(row, inputs).pieces
    assert {piece.tensor for piece in pieces} == set(got)
    for piece in pieces:
        torch.testing.assert_close(piece.right, got[piece.tensor][piece.index], rtol=1e-10, atol=1e-12)


def _one_query(x):
    x = x.clone()
    x[-1, -1, -1] *= 1.2
    return x


def _nan(x):
    x = x.clone()
    x[0, 0, 0, 0] = torch.nan
    return x


SPOILT = {
    "one query": _one_query,
    "nan": _nan,
    "zeros": torch.zeros_like,
    "scaled": lambda x: x * 1.04,
    "dtype": lambda x: x.float(),
    "shape": lambda x: x[:, :, 1:],
}


@pytest.mark.parametrize("tensor", ["O", "dQ", "dK", "dV"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_output_is_wrong(spoil, tensor):
    row = replace(ROWS[1], direction="forward" if tensor == "O" else "backward")
    inputs = make_inputs(row, "cpu")
    got = returned(row, inputs)
    spoilt = (
        spoil(got)
        if tensor == "O"
        else tuple(spoil(x) if name == tensor else x for name, x in zip(("dQ", "dK", "dV"), got, strict=True))
    )
    assert judge_of(row, inputs).error(spoilt) > 1


@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("change", [{"causal": False}, {"padding": 0.0}, {"padding": 0.5}], ids=str)
def test_another_mask_is_wrong_by_far(change, direction):
    row = Row(N=80, d=16, B=2, Hq=4, Hk=2, causal=True, padding=0.25, direction=direction)
    inputs = make_inputs(row, "cpu")
    other = replace(row, **change)
    lengths = make_inputs(other, "cpu").seqlens_k
    assert judge_of(row, inputs).error(returned(other, replace(inputs, seqlens_k=lengths))) > 8


def test_a_key_that_nobody_sees_has_a_gradient_of_exactly_nothing():
    row = replace(ROWS[3], direction="backward")
    inputs = make_inputs(row, "cpu")
    got = returned(row, inputs)
    got[1][0, 0, -1, 0] = 1e-8
    assert judge_of(row, inputs).error(got) == float("inf")


def test_tf32_is_not_fp32():
    row = Row(N=128, d=64, dtype="fp32")
    inputs = make_inputs(row, "cpu")
    rounded = replace(inputs, **{name: _tf32(getattr(inputs, name)) for name in "qkv"})
    assert judge_of(row, inputs).error(returned(row, rounded)) > 1


def _tf32(x):
    """x with the 10 bits of mantissa that TF32 keeps."""
    return ((x.view(torch.int32) + (1 << 12)) >> 13 << 13).view(torch.float32)
