"""The backward: what is called, and the check on it, which passes what is right and fires on what is not."""

import pytest
import torch

from speed.clock import CpuClock
from speed.gradient_truth import gradient_truth
from speed.measure import admit
from speed.passes import calls_of
from speed.providers import Provider, named
from speed.rows import DTYPES, Row, make_inputs
from speed.truth import BOUNDS

BACKWARD = {"N": 48, "d": 16, "direction": "backward"}
ROWS = [
    Row(**BACKWARD, B=2, Hq=4, Hk=2),
    Row(**BACKWARD, B=2, Hq=2, Hk=2, causal=True),
    Row(**BACKWARD, B=2, Hq=4, Hk=1, padding=0.25, causal=True),
    Row(**BACKWARD, B=2, Hq=2, Hk=2, padding=0.5, ragged=True),
]
OURS = ("ours", "ours_portable", "ours:config=32x32x4x1")


def gradients(name, row, inputs):
    with named(name).around():
        return calls_of(named(name), row, inputs).timed()()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["naive", "sdpa_math", "sdpa_flash"])
def test_a_peer_is_right(name, dtype, row):
    row = Row(**{**vars(row), "dtype": dtype})
    inputs = make_inputs(row, "cpu")
    assert gradient_truth(row, inputs).error(gradients(name, row, inputs)) <= 1


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", OURS)
def test_ours_is_right(name, row):
    inputs = make_inputs(row, "cpu")
    assert gradient_truth(row, inputs).error(gradients(name, row, inputs)) <= 1


@pytest.mark.parametrize("row", ROWS)
def test_the_truth_is_what_autograd_gives_in_float64(row, monkeypatch):
    """From several blocks of queries; so the bounds are not met by luck."""
    row = Row(**{**vars(row), "dtype": "fp32"})
    inputs = make_inputs(row, "cpu")
    double = (x.double() for x in (inputs.q, inputs.k, inputs.v))
    exact = gradients("naive", row, type(inputs)(*double, inputs.seqlens_k, inputs.dO.double()))
    monkeypatch.setattr("speed.gradient_truth.SCORES", 20 * row.N)
    monkeypatch.setitem(BOUNDS, "fp32", 1e-12)
    right = gradient_truth(row, inputs)
    monkeypatch.setitem(DTYPES, "fp32", torch.float64)
    assert right.error(exact) <= 1


def _changed(place, change):
    def spoil(got):
        got = [x.clone() for x in got]
        got[place] = change(got[place])
        return tuple(got)

    return spoil


def _one_row(x):
    x[-1, -1, -1] += 0.3 * x[-1, -1].norm(dim=-1).mean()
    return x


def _nan(x):
    x[0, 0, 0, 0] = torch.nan
    return x


SPOILT = {
    "scaled": lambda x: x * 1.04,
    "zeros": torch.zeros_like,
    "one row": _one_row,
    "nan": _nan,
    "dtype": lambda x: x.float(),
    "shape": lambda x: x[:, :, 1:],
}


@pytest.mark.parametrize("place", range(3), ids=["dQ", "dK", "dV"])
@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_gradient_is_wrong(change, place):
    row = ROWS[1]
    inputs = make_inputs(row, "cpu")
    got = gradients("naive", row, inputs)
    assert gradient_truth(row, inputs).error(_changed(place, change)(got)) > 1


@pytest.mark.parametrize("change", [{"causal": False}, {"padding": 0.0}, {"padding": 0.5}], ids=str)
def test_the_gradients_of_another_mask_are_wrong(change):
    row = Row(**BACKWARD, B=2, Hq=2, Hk=2, causal=True, padding=0.25)
    other, inputs = Row(**{**vars(row), **change}), make_inputs(row, "cpu")
    lengths = make_inputs(other, "cpu").seqlens_k
    got = gradients("naive", other, type(inputs)(inputs.q, inputs.k, inputs.v, lengths, inputs.dO))
    assert gradient_truth(row, inputs).error(got) > 1


def test_a_key_that_nobody_sees_has_a_gradient_of_exactly_nothing():
    row = ROWS[2]
    inputs = make_inputs(row, "cpu")
    got = gradients("naive", row, inputs)
    got[1][0, 0, -1, 0] = 1e-8
    assert gradient_truth(row, inputs).error(got) == float("inf")


def test_the_backward_goes_through_one_forward_and_the_memory_through_both():
    forwards, row = [], ROWS[0]

    def bind(row, inputs):
        call = named("naive").bind(row, inputs)
        return lambda: forwards.append(1) or call()

    calls = calls_of(Provider("counted", "counted", bind), row, make_inputs(row, "cpu"))
    timed = calls.timed()
    one, other = timed(), timed()
    assert len(forwards) == 1
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(one, calls.whole(), strict=True))
    assert len(forwards) == 2


def test_one_that_is_wrong_the_second_time_is_not_timed():
    row, times = ROWS[0], []

    class Forgets(torch.autograd.Function):
        @staticmethod
        def forward(ctx, O):
            return O.clone()

        @staticmethod
        def backward(ctx, dO):
            times.append(1)
            return dO if len(times) < 3 else torch.zeros_like(dO)

    forgets = Provider("forgets", "forgets", lambda row, inputs: lambda: Forgets.apply(naive(row, inputs)))
    inputs = make_inputs(row, "cpu")
    outcome, bound = admit(forgets, row, inputs, gradient_truth(row, inputs), FakeClock())
    assert (outcome.status, bound, len(times)) == ("wrong", None, 3)


class FakeClock(CpuClock):
    """Calls what it is asked the memory of, as a device's does."""

    def peak_bytes(self, call):
        call()


def naive(row, inputs):
    return named("naive").bind(row, inputs)()


def test_one_without_a_backward_is_refused():
    row = ROWS[0]
    inputs = make_inputs(row, "cpu")
    plain = Provider("plain", "plain", lambda row, inputs: lambda: inputs.q.detach().clone())
    outcome, bound = admit(plain, row, inputs, gradient_truth(row, inputs), CpuClock())
    assert (outcome.status, outcome.why, bound) == ("refused", "it has no backward", None)
