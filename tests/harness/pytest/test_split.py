"""A marked property test is drawn by all workers of pytest-xdist, each its share; without xdist nothing changes."""

import re
from collections import Counter

import pytest

PROPERTY = """
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
TWENTY = settings(max_examples=20, deadline=None, derandomize=False, database=None)

def note(*what):
    with open("drawn", "a") as file:
        print(WORKER, *what, file=file)

number = st.integers(0, 2**40)
"""
PLAIN = """
@pytest.mark.flashattest
@TWENTY
@given(x=number)
def test_it(x):
    note(x)
"""
A_WORKER = """
def pytest_configure(config):
    config.workerinput = {"workercount": 2, "workerid": "gw0"}
"""


@pytest.fixture
def drawn(pytester, monkeypatch):
    """Runs a test file as one of two workers that is given all tests; returns the result and what was noted."""
    monkeypatch.chdir(pytester.path)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the run that this test is in

    def run(source, *arguments, conftest=A_WORKER, run=pytester.runpytest_inprocess, **outcomes):
        (pytester.path / "drawn").unlink(missing_ok=True)
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_it=PROPERTY + source)
        result = run("-v", "--strict-markers", "-p", "no:cacheprovider", *arguments)
        result.assert_outcomes(**(outcomes or {"passed": 2}))
        noted = [line.split() for line in (pytester.path / "drawn").read_text().splitlines()]
        return result, noted

    return run


def test_each_worker_of_xdist_draws_its_share(drawn, pytester):
    result, noted = drawn(PLAIN, "-n", "2", conftest="", run=pytester.runpytest_subprocess)
    assert Counter(worker for worker, _ in noted) == {"gw0": 10, "gw1": 10}
    assert len({x for _, x in noted}) > 12
    for name in ("test_it.py::test_it[[]1of2[]]", "test_it.py::test_it[[]2of2[]]"):
        result.stdout.fnmatch_lines(["*PASSED " + name + "*"])


def test_without_xdist_one_test_draws_everything_under_its_own_name(drawn):
    result, noted = drawn(PLAIN, conftest="", passed=1)
    assert len(noted) == 20
    assert "1of" not in result.stdout.str()


def test_what_bears_no_mark_or_is_no_property_is_run_once(drawn):
    plain = "@pytest.mark.flashattest\ndef test_plain():\n    note(0)\n"
    _, noted = drawn(PLAIN.replace("@pytest.mark.flashattest", "") + plain)
    assert len(noted) == 21


def test_a_share_is_rounded_up(drawn):
    _, noted = drawn(PLAIN.replace("@TWENTY", "@settings(TWENTY, max_examples=7)"))
    assert len(noted) == 8


@pytest.mark.parametrize("fixed", ["@seed(7)", "@settings(TWENTY, derandomize=True)", "--hypothesis-seed=7"])
def test_a_fixed_seed_is_another_in_each_copy_and_the_same_the_next_time(drawn, pytester, fixed):
    source = PLAIN.replace("@TWENTY", fixed) if "settings" in fixed else PLAIN
    source = source.replace("@given", "@seed(7)\n@given") if "@seed" in fixed else source
    # The option is Hypothesis's for good in the process that was given it.
    arguments = {"run": pytester.runpytest_subprocess} if fixed.startswith("--") else {}
    options = [fixed] if arguments else []
    runs = [[x for _, x in drawn(source, *options, **arguments)[1]] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 0.6 * len(runs[0])


def test_parameters_classes_and_modules_are_split_too(drawn):
    source = """
pytestmark = pytest.mark.flashattest

class TestIt:
    @pytest.mark.parametrize("kind", ["a", "b"])
    @TWENTY
    @given(x=number)
    def test_it(self, kind, x):
        note(kind)
"""
    _, noted = drawn(source, passed=4)
    assert Counter(kind for _, kind in noted) == {"a": 20, "b": 20}


def test_given_examples_are_the_first_copys_alone(drawn):
    _, noted = drawn(PLAIN.replace("@given", "@example(-5)\n@given"))
    assert [x for _, x in noted].count("-5") == 1


def test_copies_that_have_nothing_to_draw_are_skipped(drawn):
    only = "@example(-5)\n@settings(TWENTY, phases=[Phase.explicit])\n@given"
    _, noted = drawn(PLAIN.replace("@TWENTY\n@given", only), passed=1, skipped=1)
    assert [x for _, x in noted] == ["-5"]


FAILS = """
from hypothesis.database import DirectoryBasedExampleDatabase

LEAST = int(Path("least").read_text())

@pytest.mark.flashattest
@PARAMETRIZED
@settings(TWENTY, max_examples=200, database=DirectoryBasedExampleDatabase("examples"))
@given(x=number)
def test_it(KINDx):
    note(x)
    assert x < LEAST
"""


@pytest.mark.parametrize("is_parametrized", [False, True])
def test_copies_share_a_database_with_the_whole_test(drawn, pytester, is_parametrized):
    mark, argument = ('@pytest.mark.parametrize("kind", [0])', "kind, ") if is_parametrized else ("", "")
    source = FAILS.replace("@PARAMETRIZED", mark).replace("KIND", argument)
    (pytester.path / "least").write_text("1000")
    drawn(source, failed=2)
    assert drawn(source, conftest="", failed=1)[1][0] == ["alone", "1000"]
    assert drawn(source, failed=2)[1][0] == ["alone", "1000"]


def test_copies_of_several_tests_are_mixed_and_come_last(drawn):
    source = "".join(PLAIN.replace("test_it", f"test_{name}") for name in "ab") + "\ndef test_c():\n    note(0)\n"
    result, _ = drawn(source, passed=5)
    order = re.findall(r"::(\S+) PASSED", result.stdout.str())
    assert order == ["test_c", "test_a[1of2]", "test_b[1of2]", "test_a[2of2]", "test_b[2of2]"]
