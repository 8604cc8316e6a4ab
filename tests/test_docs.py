"""The documents lead where they say: links, paths and commands exist, and every page can be reached."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from harness.cli.main import _parser
from harness.judging.verdict import KINDS
from harness.subject.declaration import EXACT, Subject
from strategies.layouts import LAYOUTS
from tests.documents import INDEX, PAGES, README, ROOT, anchors, blocks, commands, links, prose

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
DOCS = ROOT / "docs"
TOP = ("strategies", "oracles", "harness", "kernel", "regressions", "tests", "benchmark", "profile", "docs")


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 10_000


@every_page
def test_links_resolve(page):
    assert [path for path, _ in links(page) if not path.exists()] == []
    lost = [(path.name, anchor) for path, anchor in links(page) if anchor and anchor not in anchors(path)]
    assert lost == []


def test_every_page_can_be_reached_from_the_index():
    reached, left = set(), [INDEX]
    while left:
        page = left.pop()
        if page not in reached:
            reached.add(page)
            left += [path for path, _ in links(page) if path.suffix == ".md"]
    assert set(PAGES) - reached == set()
    assert INDEX in {path for path, _ in links(README)}


def test_every_picture_is_shown():
    shown = {path for page in PAGES for path, _ in links(page)}
    assert set(DOCS.rglob("*.png")) - shown == set()


@every_page
def test_paths_in_the_text_exist(page):
    named = re.findall(rf"`((?:{'|'.join(TOP)})/[\w./-]*)`", prose(page))
    examples = ("mine.py", "skip_third.py")  # of a reader's own
    assert [path for path in named if not path.endswith(examples) and not (ROOT / path).exists()] == []


@every_page
def test_commands_of_ours_are_understood(page):
    for command in commands(page):
        words = shlex.split(command.partition(" > ")[0])
        if words[0] == "flashattest":
            _parser().parse_args(words[1:])


@every_page
def test_scripts_exist(page):
    scripts = re.findall(r"python ((?:benchmark|profile)/\w+\.py)", page.read_text())
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    modules = re.findall(r"python -m (\w[\w.]*\w)", page.read_text())
    assert [module for module in modules if find_spec(module) is None] == []


@every_page
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


EXTENSIONS = """
from collections.abc import Iterator
import strategies.layouts, strategies.values
from harness.judging.judge import judge
from harness.recall.faults import FAULTS
from harness.recall.faults.blocks import Task, Tiled
from harness.recall.faults.registry import fault
from harness.recall.faults.witness import case
from harness.running.attempt import attempt
from harness.subject.loading import load
from oracles import float64
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from tests.documents import ROOT, blocks

def run(chapter, names):
    for code in blocks(ROOT / "docs" / "explain" / "how.md", "python", chapter):
        exec(code, names)


run("Add a feature", {})
run("Add an oracle", {"O": None, "LSE": None})
run("Add a relation", {})
run("Add a value family", vars(strategies.values))
run("Add a layout", vars(strategies.layouts))
run("Add a check", {})
run("Add a planted fault", {"fault": fault, "case": case, "Task": Task, "Tiled": Tiled, "Iterator": Iterator})
assert "offset_by_two" in strategies.layouts.LAYOUTS
assert float64(build(AttentionCase(Geometry(Nk=3), features=Features(skip_third=0)))).hidden.tolist() == [[[[1, 0, 0]]]]
tried = AttentionCase(Geometry(Nq=5, Nk=7, d=8), q=TensorSpec("halves"))
right = attempt(load("sdpa_math"), tried, "cpu")
assert judge(right, ["opposite_values"]) == []
(wrong,) = (each for each in FAULTS.values() if each.id == "tail-lost")
assert judge(attempt(wrong.subject(), wrong.witness, "cpu"))
"""


def test_the_examples_of_extensions_work():
    """In a process of their own, since they register what they define."""
    ran = subprocess.run([sys.executable, "-c", EXTENSIONS], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("reference/promises.md", EXACT),
        ("reference/declaration.md", tuple(LAYOUTS)),
        ("guide/own-kernel.md", KINDS),
    ],
)
def test_a_reference_is_complete(page, names):
    text = (DOCS / page).read_text()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_what_can_be_declared_is_documented():
    text = (DOCS / "reference/declaration.md").read_text()
    fields = set(Subject.__dataclass_fields__) - {"name", "function", "keywords", "refuses", "operation", "limits"}
    assert [name for name in fields - {"differentiable_by"} if f"`{name}`" not in text] == []
