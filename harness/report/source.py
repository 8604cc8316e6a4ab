"""Read what a name on the command line means: a campaign or saved failures."""

from __future__ import annotations

from pathlib import Path

from harness.corpus import entries
from harness.corpus.entries import MARKER
from harness.errors import CannotRun
from harness.report.model import Source
from harness.report.read_campaign import of_campaign, parsed
from harness.report.read_corpus import of_entries


def read(named: str, corpus_folder: Path) -> Source:
    """Read a campaign's JSON, a folder of saved failures, one saved failure, or the id of one in the corpus.

    Raises CannotRun, in one sentence, for anything else.
    """
    path = Path(named)
    if path.is_dir():
        return of_entries(named, sorted(path.rglob("*.json")))
    if path.is_file() and MARKER not in (data := parsed(path)):
        return of_campaign(path, data)
    if path.is_file():
        return of_entries(named, [path], strictly=True)
    if path == corpus_folder:
        raise CannotRun(f"There is no corpus {named} here; name a campaign's JSON or a folder of saved failures.")
    return of_entries(named, entries.find(corpus_folder, [named]), strictly=True)
