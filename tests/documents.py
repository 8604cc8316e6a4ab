"""The documents: their pages, code blocks, commands and links."""

import re
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "README.md"
PAGES = [
    README,
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmark" / "results" / "README.md",
    ROOT / "profile" / "ncu_notes.md",
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def blocks(page: Path, language: str, chapter: str | None = None) -> list[str]:
    """The fenced code blocks of a page, or of one of its chapters, in a language."""
    text = page.read_text()
    if chapter is not None:
        text = text.partition(f"\n## {chapter}\n")[2].partition("\n## ")[0]
    return [code for name, code in _FENCE.findall(text) if name == language]


def commands(page: Path, chapter: str | None = None) -> list[str]:
    """The shell commands of a page, or of one of its chapters, without their comments."""
    lines = (line for block in blocks(page, "sh", chapter) for line in block.replace("\\\n", " ").splitlines())
    return [re.sub(r"\s+#.*", "", line) for line in lines if line]


def prose(page: Path) -> str:
    """A page without its fenced code blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[tuple[Path, str]]:
    """Where the relative links of a page lead: the file or folder, and the anchor in it ("" without one)."""
    found = (target for target in _LINK.findall(prose(page)) if "://" not in target)
    parts = (unquote(target).partition("#") for target in found)
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
