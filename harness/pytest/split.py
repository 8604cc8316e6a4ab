"""pytest-xdist shares out tests; this shares out the examples of one test, so that it uses every worker.

A Hypothesis test under `@pytest.mark.flashattest` is collected once for each worker, and each copy draws its share of
the examples. All copies use the database of the whole test, which the first copy replays. pytest loads this module in
every project that has Flashattest installed, so it imports nothing heavy until it meets such a test.
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


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"{MARKER}: pytest-xdist's workers share the cases of this Hypothesis test.")


@pytest.fixture(name=SHARE)
def _share(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Copy a marked test for each worker. Every worker collects all copies, as xdist requires."""
    count = _workers(metafunc.config)
    if count > 1 and metafunc.definition.get_closest_marker(MARKER) is not None:
        from hypothesis import is_hypothesis_test

        if is_hypothesis_test(metafunc.function):
            metafunc.fixturenames.append(SHARE)
            ids = [_suffix(number, count) for number in range(count)]
            metafunc.parametrize(SHARE, range(count), indirect=True, ids=ids)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put copies last, and those of one test apart: xdist gives a worker chunks of neighbours, small at the end."""
    items.sort(key=lambda item: -1 if (number := _number(item)) is None else number)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a copy on its share; within Hypothesis's own hook, which names the database's key after the copy."""
    number = _number(item)
    if number is None:
        return (yield)
    with _limited_to_share(item, number, _workers(item.config)):
        return (yield)


def _workers(config: pytest.Config) -> int:
    """The number of workers that share the tests; 1 without xdist."""
    return int(getattr(config, "workerinput", {}).get("workercount", 1))


def _number(item: pytest.Item) -> int | None:
    """The number of a copy; None for any other test."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(SHARE)


def _suffix(number: int, count: int) -> str:
    return f"{number + 1}of{count}"


def _whole_name(item: pytest.Item, number: int, count: int) -> str:
    """The name of the test that is split."""
    suffix = _suffix(number, count)
    return item.nodeid.replace(f"[{suffix}]", "").replace(f"-{suffix}]", "]")


@contextmanager
def _limited_to_share(item: Any, number: int, count: int) -> Iterator[None]:
    """Make the item's test draw a share of its examples. Nothing else uses private names of Hypothesis.

    Hypothesis (6.170) offers no public way: a test refuses a second `@settings`, `@seed` can neither be read nor taken
    back, and the strategies of `@given` cannot be read to decorate the inner test again. The digest is part of the
    database's key; Hypothesis sets it for parametrized tests only.
    """
    test = getattr(item.obj, "__func__", item.obj)
    name = _whole_name(item, number, count)
    settings, inner = test._hypothesis_internal_use_settings, test.hypothesis.inner_test
    fixed = test._hypothesis_internal_use_seed
    if fixed is None:
        fixed = item.config.getoption("--hypothesis-seed", default=None)
    if fixed is None and settings.derandomize:
        fixed = "derandomize"
    # All copies are one function, so each takes back what it sets.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test, "_hypothesis_internal_use_settings", _share_of(settings, number, count))
        patch.setattr(test, "_hypothesis_internal_use_seed", _seed(fixed, name, number))
        if hasattr(inner, "_hypothesis_internal_add_digest"):
            patch.setattr(inner, "_hypothesis_internal_add_digest", name.encode())
        yield


def _share_of(whole: Any, number: int, count: int) -> Any:
    """The settings with a share of the examples. Explicit and saved examples are left to the first copy."""
    from hypothesis import Phase, settings

    left_out = {Phase.explicit, Phase.reuse} if number else set()
    phases = tuple(phase for phase in whole.phases if phase not in left_out)
    return settings(whole, max_examples=-(-whole.max_examples // count), phases=phases)


def _seed(fixed: object, name: str, number: int) -> int | None:
    """A seed for each copy where the test's is fixed; None otherwise, so that each copy draws at random."""
    if fixed is None:
        return None
    digest = hashlib.sha256(f"{fixed} {name} {number}".encode()).digest()
    return int.from_bytes(digest[:16], "big")
