"""pytest collects saved failures: each JSON file of a corpus is one test, which fails as long as its subject does.

It also splits the cases of marked property tests among workers (`harness.pytest.split`).

It collects our files below a folder called `regressions`, and those that the command line names. pytest loads this
module in every project that has Flashattest installed, so it imports nothing heavy until it meets such a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.pytest import split as pytest_split

FOLDER = "regressions"
_MARKER = re.compile(rb'\s*\{\s*"flashattest"\s*:')
_OUR_NAME = re.compile(r"[0-9a-f]{12}\.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that pretends a CUDA device."""
    group = parser.getgroup("flashattest")
    group.addoption("--pretend-cuda", metavar="ARCH", help="answer subjects for a GPU like sm_90, on a CPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the splitting, and our Hypothesis profiles if `--hypothesis-profile` names one. Load none."""
    config.pluginmanager.register(pytest_split, "flashattest-split")
    pretended = config.getoption("--pretend-cuda")
    if pretended or os.environ.get("FLASHATTEST_PRETEND_CUDA"):
        from harness.pytest import pretend

        pretend.start(pretended)
        config.pluginmanager.register(pretend, "flashattest-pretend")
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
    """Let `pytest regressions/` pass if the corpus is empty."""
    places = [Path(argument).name for argument in session.config.args]
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and places == [FOLDER] and session.testscollected == 0:
        session.exitstatus = pytest.ExitCode.OK


def _is_ours(path: Path) -> bool:
    """Whether a file is ours by its name or its beginning. A damaged one must fail, not be overlooked."""
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
        """Yield the test, also for a file that cannot be read: it fails alone, and the rest is replayed."""
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
        """Replay it. Skip it if its subject does not run on this machine; a known failure is a strict xfail."""
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
        """File, line (none) and title for pytest's reports."""
        return self.path, None, self.title
