"""The folders of the harness have an order, and none imports a higher one, or `kernel`."""

import ast
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent
ORDER = (
    "errors",
    "io",
    "interpreter",
    "subject",
    "running",
    "judging",
    "workers",
    "corpus",
    "campaign",
    "report",
    "recall",
    "pytest",
    "cli",
)
"""From the lowest to the highest."""

MOST_ENTRIES = 14


def imports_of(folder):
    """Yield file, line and dotted name of every import in a folder, inside functions and `if TYPE_CHECKING` too."""
    for path in [ROOT / f"{folder}.py"] if folder == "errors" else (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                yield from (
                    (str(path.relative_to(ROOT.parent)), node.lineno, module + each.name) for each in node.names
                )


@pytest.mark.parametrize("folder", ORDER)
def test_imports_neither_a_higher_folder_nor_the_kernel(folder):
    higher = ["kernel.", *(f"harness.{each}." for each in ORDER[ORDER.index(folder) + 1 :])]
    wrong = [
        f"{file}:{line} imports {name}"
        for file, line, name in imports_of(folder)
        if f"{name}.".startswith(tuple(higher))
    ]
    assert not wrong, "\n".join(wrong)


def test_has_few_entries_and_each_has_its_place():
    entries = {path.stem for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__", *ORDER}
    assert len(entries) <= MOST_ENTRIES
