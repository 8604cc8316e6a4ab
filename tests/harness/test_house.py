"""The folders of the harness have an order, and none imports a higher one; `kernel` is imported by none of them."""

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


def imported_by(path):
    """Yield the dotted name and the line of every import in a file, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("folder", ORDER)
def test_imports_no_higher_folder(folder):
    forbidden = {"kernel"} | {f"harness.{higher}" for higher in ORDER[ORDER.index(folder) + 1 :]}
    files = [ROOT / f"{folder}.py"] if folder == "errors" else (ROOT / folder).rglob("*.py")
    wrong = [
        f"{path.relative_to(ROOT.parent)}:{line} imports {name}"
        for path in files
        for name, line in imported_by(path)
        if any(f"{name}.".startswith(f"{each}.") for each in forbidden)
    ]
    assert not wrong, "\n".join(wrong)


def test_has_few_entries_and_each_has_its_place():
    entries = {path.stem for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__", *ORDER}
    assert len(entries) <= MOST_ENTRIES
