"""The backward: what is called for its memory, what is timed, and what is not."""

import torch

from speed.clock import CpuClock
from speed.judge import judge_of
from speed.measure import admit
from speed.passes import calls_of
from speed.providers import Provider, named
from speed.rows import Row, make_inputs

BACKWARD = {"N": 48, "d": 16, "direction": "backward"}
ROW = Row(N=48, d=16, B=2, Hq=4, Hk=2, direction="backward")


def test_the_backward_goes_through_one_forward_and_the_memory_through_both():
    forwards, row = [], ROW

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
    row, times = ROW, []

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
    outcome, bound = admit(forgets, row, inputs, judge_of(row, inputs), FakeClock())
    assert (outcome.status, bound, len(times)) == ("wrong", None, 3)


class FakeClock(CpuClock):
    """Calls what it is asked the memory of, as a device's does."""

    def peak_bytes(self, call):
        call()


def naive(row, inputs):
    return named("naive").bind(row, inputs)()


def test_one_without_a_backward_is_refused():
    row = ROW
    inputs = make_inputs(row, "cpu")
    plain = Provider("plain", "plain", lambda row, inputs: lambda: inputs.q.detach().clone())
    outcome, bound = admit(plain, row, inputs, judge_of(row, inputs), CpuClock())
    assert (outcome.status, outcome.why, bound) == ("refused", "it has no backward", None)
