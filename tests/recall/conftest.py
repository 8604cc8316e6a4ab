"""Few controls and few cases on each, and a way to plant a function of the test's own."""

from __future__ import annotations

import pytest

from harness.recall import run
from harness.recall.faults import CONTROLS, FAULTS, Control, Fault
from strategies import AttentionCase
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def _one_control(monkeypatch):
    for id in set(CONTROLS) - {"naive-fp32"}:
        monkeypatch.delitem(CONTROLS, id)
    monkeypatch.setattr(run, "FEWEST_CASES", 30)


@pytest.fixture
def plant(monkeypatch):
    """Plants a function as a fault that shows as these kinds; returns its id."""

    def planted(attention, *expects):
        id = attention.__name__
        kinds = frozenset(expects)
        fault = Fault(id, "A test's own.", lambda: attention, "A", None, "torch", kinds, AttentionCase())
        monkeypatch.setitem(FAULTS, id, fault)
        return id

    return planted


@pytest.fixture
def as_control(monkeypatch):
    """Plants a function as a control."""

    def planted(attention):
        monkeypatch.setitem(
            CONTROLS, attention.__name__, Control(attention.__name__, "A test's own.", lambda: attention)
        )

    return planted
