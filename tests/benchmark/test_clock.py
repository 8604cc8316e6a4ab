"""The clocks: what the one for CUDA does, and in which order, on a device that only keeps a diary."""

from types import SimpleNamespace

import pytest

from speed.clock import ENQUEUED, FLUSH_BYTES, CpuClock, CudaClock, clock_of


class Diary(list):
    """A `torch` whose device does nothing; events are 1.5 ms apart, and a call holds 640 bytes."""

    int8 = "int8"

    def __init__(self):
        super().__init__()
        self.cuda = SimpleNamespace(
            Event=lambda enable_timing: self.event(),
            synchronize=lambda: self.append("wait"),
            _sleep=lambda cycles: self.append("lead"),
            memory_allocated=lambda: 1000,
            reset_peak_memory_stats=lambda: self.append("reset"),
            max_memory_allocated=lambda: 1640,
        )

    def empty(self, size, dtype, device):
        assert (size, device) == (FLUSH_BYTES, "cuda")
        return SimpleNamespace(zero_=lambda: self.append("flush"))

    def event(self):
        return SimpleNamespace(record=lambda: self.append("event"), elapsed_time=lambda end: 1.5)


@pytest.fixture
def diary(monkeypatch):
    kept = Diary()
    monkeypatch.setattr("speed.clock.torch", kept)
    return kept


def test_each_call_stands_between_two_events_after_a_flush(diary):
    assert CudaClock().times(lambda: diary.append("call"), 2) == [1.5, 1.5]
    once = ["flush", "event", "call", "event"]
    assert diary == ["wait", "call", "wait", "lead", *once, *once, "wait"]


def test_an_estimate_is_a_median(diary):
    assert CudaClock().estimate(lambda: None) == 1.5


def test_the_host_is_timed_from_an_idle_device_until_all_is_enqueued(diary):
    assert CudaClock().host(lambda: diary.append("call")) > 0
    assert diary == ["wait", *["call"] * ENQUEUED, "wait"]


def test_memory_is_counted_above_what_was_held(diary):
    assert CudaClock().peak_bytes(lambda: diary.append("call")) == 640
    assert diary == ["wait", "reset", "call", "wait"]


def test_on_a_cpu_there_is_no_enqueueing_and_no_count_of_memory():
    calls = []
    clock = clock_of("cpu")
    assert isinstance(clock, CpuClock)
    assert len(clock.times(lambda: calls.append(1), 3)) == len(calls) == 3
    assert (clock.host(lambda: None), clock.peak_bytes(lambda: None)) == (None, None)
    assert clock.estimate(lambda: None) >= 0
