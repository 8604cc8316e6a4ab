"""Test modules imported, and saved failures replayed, with a CUDA device pretended: `pytest --pretend-cuda sm_90`."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from harness.errors import CannotRun
from harness.running.devices import prepare
from harness.subject.pretend import ask_for, pretended_cuda


def start(arch: str | None) -> None:
    """Pretend a device of this architecture, or of that in the environment. Raises UsageError for an unknown one."""
    try:
        ask_for(arch)
        with pretended_cuda():
            prepare("cpu")
    except CannotRun as error:
        raise pytest.UsageError(str(error)) from error


Collected = Generator[None, pytest.CollectReport, pytest.CollectReport]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Collected:
    """Pretend the device while a test module is imported, and what it imports."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    with pretended_cuda():
        return (yield)
