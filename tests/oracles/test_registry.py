"""An oracle is one decorated function in a file of its own."""

import sys
from pkgutil import walk_packages

import pytest

import oracles
from oracles import ORACLES, Answer, oracle


def test_every_file_of_the_folder_is_imported():
    assert {module.name for module in walk_packages(oracles.__path__, "oracles.")} <= set(sys.modules)


def test_the_function_gives_the_name_and_its_docstring_the_description(monkeypatch):
    monkeypatch.setattr("oracles.registry.ORACLES", {})

    @oracle(why_not=lambda problem: "never")
    def always_right(problem):
        """Cannot be wrong.

        Because it never speaks.
        """
        return Answer(problem.q)

    made = oracles.registry.ORACLES["always_right"]
    assert (made.name, made.description) == ("always_right", "Cannot be wrong.")
    assert not made.supports(None)
    assert made.why_not(None) == "never"


def test_a_name_is_taken_once():
    def float64(problem):
        """Another truth."""

    with pytest.raises(ValueError, match="already named 'float64'"):
        oracle()(float64)


def test_an_oracle_says_what_it_is():
    def silent(problem):
        return Answer(problem.q)

    with pytest.raises(ValueError, match="'silent' needs a docstring"):
        oracle()(silent)
    assert "silent" not in ORACLES
