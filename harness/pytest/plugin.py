"""pytest collects saved failures: each JSON file of a corpus is one test, which fails while the failure is there.

It also splits the cases of marked property tests among workers (`harness.pytest.split`).

Collected are our files below a folder called `regressions`, and those that the command line names. pytest loads this
module in every project that has Flashattest installed, so it imports nothing heavy before it meets such a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.pytest import split as pytest_split

FOLDER = "regressions"
_MARKER = re.compile(rb'\s*\{\s*"flashattest"\s*:')
_OUR_NAME = re.compile(r"[0-9a-f]{12}\.json")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the splitting known, and our Hypothesis profiles where `--hypothesis-profile` names one; none is loaded."""
    config.pluginmanager.register(pytest_split, "flashattest-split")
    asked = config.getoption("--hypothesis-profile", default=None)
    if asked and asked.startswith("flashattest"):
        from harness.pytest import profiles

        profiles.register()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SavedFailureFile | None:
    """Collect a saved failure."""
    if file_path.suffix != ".json":
        return None
    is_asked_for = FOLDER in file_path.parent.parts or parent.session.isinitpath(file_path)
    return SavedFailureFile.from_parent(parent, path=file_path) if is_asked_for and _is_ours(file_path) else None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A corpus without a failure is good news: `pytest regressions/` passes."""
    places = [Path(argument).name for argument in session.config.args]
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and places == [FOLDER] and session.testscollected == 0:
        session.exitstatus = pytest.ExitCode.OK


def _is_ours(path: Path) -> bool:
    """Whether a file is ours by its name or its beginning; one that is torn must fail, not go unseen."""
    if _OUR_NAME.fullmatch(path.name):
        return True
    try:
        with path.open("rb") as file:
            return _MARKER.match(file.read(200)) is not None
    except OSError:
        return False


class SavedFailureFile(pytest.File):
    """A file of a corpus; it holds one test, named by the kind of its failure."""

    def collect(self) -> Iterator[SavedFailure]:
        """Yield the test; of a file that cannot be read too, so that it fails alone and the rest is replayed."""
        from harness.corpus import entries

        try:
            entry = entries.load(self.path)
        except entries.CorruptEntry:
            yield SavedFailure.from_parent(self, name="unreadable", title=str(self.path))
        else:
            yield SavedFailure.from_parent(self, name=entry.kind, title=f"{entry.subject}::{entry.id}")


class SavedFailure(pytest.Item):
    """The replay of a saved failure."""

    def __init__(self, *, title: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.title = title

    def runtest(self) -> None:
        """Replay it; skip it where its subject does not run on this machine. What is known is a strict xfail."""
        from harness.corpus.replay import replay

        replayed = replay(self.path)
        if replayed.elsewhere:
            pytest.skip(replayed.sentence)
        if replayed.status == "ERROR":
            pytest.fail(f"ERROR {replayed.sentence}", pytrace=False)
        if replayed.status == "KNOWN":
            pytest.xfail(replayed.sentence)
        if replayed.status == "FIXED" and replayed.is_known:
            unmark = f"`flashattest corpus mark {self.path} none` takes the mark off."
            pytest.fail(f"FIXED {replayed.sentence} {unmark}", pytrace=False)
        if replayed.status != "FIXED":
            pytest.fail(f"{replayed.sentence}\n{replayed.story()}", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it is and what it is called in reports."""
        return self.path, None, self.title
