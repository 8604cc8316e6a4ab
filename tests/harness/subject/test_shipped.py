"""What ships is listed without importing it, and a missing package is one sentence that says what to install."""

import ast
import sys

import pytest

from harness.cli.doctor import collect_facts
from harness.errors import CannotRun
from harness.subject import shipped
from harness.subject.loading import load


def test_the_package_is_read_without_the_file_running():
    assert shipped.requirement("flash_attn_4") == "flash-attn-4"
    assert shipped.requirement("sdpa") is None
    assert "harness.subject.adapters.flash_attn_4" not in sys.modules


def names_imported(node):
    if isinstance(node, ast.ImportFrom):
        return [node.module]
    return [name.name for name in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize("name", shipped.shipped())
def test_every_subject_says_what_it_is_and_needs(name):
    tree = ast.parse((shipped._FOLDER / f"{name}.py").read_text())
    assert ast.get_docstring(tree)
    imported = {name.split(".")[0] for node in tree.body for name in names_imported(node)}
    assert (imported <= {"__future__", "typing", "torch", "harness", "kernel", "math"}) == (
        shipped.requirement(name) is None
    )


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(CannotRun, match="pip install flashinfer-python") as caught:
        load("flashinfer")
    assert "\n" not in str(caught.value)


def test_a_package_that_breaks_is_distinguished_from_a_missing_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    monkeypatch.setattr(shipped, "installed", lambda package: "1.0")
    with pytest.raises(CannotRun, match="installed but cannot be imported"):
        load("flashinfer")


def test_doctor_lists_the_subjects(monkeypatch):
    monkeypatch.setattr("harness.cli.doctor.installed", lambda package: "2.8" if package == "flash-attn" else None)
    facts = collect_facts()
    assert "flash_attn (flash-attn 2.8)" in facts["subjects"]
    assert "sdpa_math" in facts["subjects"]
    assert "xformers" in facts["pip install"].split()
