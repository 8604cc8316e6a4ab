"""The check before timing: it passes what is right in each dtype and fires on what is not."""

import pytest
import torch

from speed.providers import named
from speed.rows import Row, make_inputs
from speed.truth import truth

ROWS = [
    Row(N=80, d=16, B=2, Hq=4, Hk=2),
    Row(N=80, d=16, B=2, Hq=4, Hk=2, causal=True),
    Row(N=80, d=16, B=2, Hq=4, Hk=2, padding=0.5, ragged=True),
    Row(N=80, d=16, B=2, Hq=4, Hk=1, padding=0.25, causal=True),
]


def error(row, spoil=lambda O: O, of=None):
    """Error of naive attention on a row, or of the same attention on another row, spoilt."""
    inputs = make_inputs(row, "cpu")
    O = named("naive").bind(of or row, inputs)()
    return truth(row, inputs).error(spoil(O))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_naive_attention_is_right(row, dtype):
    assert error(Row(**{**vars(row), "dtype": dtype})) <= 1


@pytest.mark.parametrize(
    "change", [{"causal": False}, {"causal": True, "padding": 0.0}, {"padding": 0.5}], ids=["full", "unpadded", "half"]
)
def test_another_mask_is_wrong(change):
    row = Row(N=80, d=16, B=2, Hq=4, Hk=2, causal=True, padding=0.25)
    inputs = make_inputs(row, "cpu")
    other = Row(**{**vars(row), **change})
    lengths = make_inputs(other, "cpu").seqlens_k
    O = named("naive").bind(other, type(inputs)(inputs.q, inputs.k, inputs.v, lengths))()
    assert truth(row, inputs).error(O) > 1


def _one_query(O):
    O = O.clone()
    O[-1, -1, -1] *= 1.2
    return O


def _nan(O):
    O = O.clone()
    O[0, 0, 0, 0] = torch.nan
    return O


@pytest.mark.parametrize(
    "spoil",
    [_one_query, _nan, torch.zeros_like, lambda O: O.float(), lambda O: O[:, :, 1:], lambda O: O * 1.02],
    ids=["one query", "nan", "zeros", "dtype", "shape", "scaled"],
)
def test_a_spoilt_output_is_wrong(spoil):
    assert not error(ROWS[0], spoil) <= 1


def test_tf32_is_not_fp32():
    row = Row(N=128, d=64, dtype="fp32")
    inputs = make_inputs(row, "cpu")
    rounded = type(inputs)(*(_tf32(x) for x in (inputs.q, inputs.k, inputs.v)), None)
    assert truth(row, inputs).error(named("naive").bind(row, rounded)()) > 1


def _tf32(x):
    """x with the 10 bits of mantissa that TF32 keeps."""
    return ((x.view(torch.int32) + (1 << 12)) >> 13 << 13).view(torch.float32)
