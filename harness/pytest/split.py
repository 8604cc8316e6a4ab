"""pytest-xdist shares out tests; this shares out the cases of one, so that a single property test uses every worker.

Under `@pytest.mark.flashattest` a Hypothesis test is collected once for each worker, and each copy draws its share of
the examples. All copies use one database, whose examples the first copy tries again. pytest loads this module in every
project that has Flashattest installed, so it imports nothing heavy before such a copy runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

MARKER = "flashattest"
SHARE = "_flashattest_share"
"""The fixture whose parameter is the number of a copy, from 0 on."""

DIGEST = "_hypothesis_internal_add_digest"
"""Where Hypothesis's own plugin puts the name of a parametrized test, which goes into the key of its examples."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}: pytest-xdist's workers share the cases of this Hypothesis test.")


@pytest.fixture(name=SHARE)
def _share(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a copy of a marked test for each worker: the same ones in all, as xdist wants it."""
    count = _workers(metafunc.config)
    is_property = getattr(metafunc.function, "is_hypothesis_test", False)
    if count > 1 and is_property and metafunc.definition.get_closest_marker(MARKER) is not None:
        metafunc.fixturenames.append(SHARE)
        metafunc.parametrize(
            SHARE, range(count), indirect=True, ids=[_suffix(number, count) for number in range(count)]
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the copies last, and those of one test apart: xdist gives a worker chunks of neighbours, small at the end."""
    items.sort(key=lambda item: -1 if (number := _number(item)) is None else number)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a copy on its share; inside Hypothesis's own hook, which names the database's key by the copy."""
    number = _number(item)
    if number is None:
        return (yield)
    with _drawing(item, number, _workers(item.config)):
        return (yield)


def _workers(config: pytest.Config) -> int:
    """How many workers share the tests; 1 without xdist."""
    return int(getattr(config, "workerinput", {}).get("workercount", 1))


def _number(item: pytest.Item) -> int | None:
    """The number of a copy; None of any other test."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(SHARE)


def _suffix(number: int, count: int) -> str:
    return f"{number + 1}of{count}"


def _whole_name(item: pytest.Item, number: int, count: int) -> str:
    """The name of the test that a copy is of."""
    suffix = _suffix(number, count)
    return item.nodeid.replace(f"[{suffix}]", "").replace(f"-{suffix}]", "]")


@contextmanager
def _drawing(item: Any, number: int, count: int) -> Iterator[None]:
    """Let the item's test draw a share of its examples while this lasts.

    Hypothesis keeps what it is told of a test as attributes of the function, which all copies are one of.
    """
    test = getattr(item.obj, "__func__", item.obj)
    name = _whole_name(item, number, count)
    told = {"settings": _settings(test, number, count), "seed": _seed(test, name, number)}
    before = {what: getattr(test, _attribute(what)) for what in told}
    if hasattr(test.hypothesis.inner_test, DIGEST):
        setattr(test.hypothesis.inner_test, DIGEST, name.encode())
    try:
        for what, value in told.items():
            setattr(test, _attribute(what), value)
        yield
    finally:
        for what, value in before.items():
            setattr(test, _attribute(what), value)


def _attribute(what: str) -> str:
    return f"_hypothesis_internal_use_{what}"


def _settings(test: Any, number: int, count: int) -> Any:
    """The test's settings with a share of the examples; what is not drawn is the first copy's alone."""
    from hypothesis import Phase, settings

    whole = getattr(test, _attribute("settings"))
    given = {Phase.explicit, Phase.reuse} if number else set()
    phases = tuple(phase for phase in whole.phases if phase not in given)
    return settings(whole, max_examples=-(-whole.max_examples // count), phases=phases)


def _seed(test: Any, name: str, number: int) -> int | None:
    """None, which draws other examples in each copy, or a seed of its own where the whole test has a fixed one."""
    from hypothesis import core

    fixed = getattr(test, _attribute("seed"))
    if fixed is None:
        fixed = core.global_force_seed
    if fixed is None and not getattr(test, _attribute("settings")).derandomize:
        return None
    digest = hashlib.sha256(f"{fixed} {name} {number}".encode()).digest()
    return int.from_bytes(digest[:16], "big")
