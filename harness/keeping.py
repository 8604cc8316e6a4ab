"""Findings go into the corpus; one that cannot be saved is still told, and so are all others."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import corpus
from harness.campaign import Finding
from harness.verdict import CannotRun


def keep(finding: Finding, subject: str, device: str, folder: Path) -> Path | None:
    """Save a campaign's finding in a corpus and return its file.

    Where that fails, say so on stderr, in one sentence, and return None: what was found is not lost for it.
    """
    try:
        return corpus.save(corpus.entry_of(finding, subject, device), folder)
    except CannotRun as error:
        print(f"flashattest: {error}", file=sys.stderr)
        return None
