"""A saved failure as a stand-alone Python script for an issue tracker: it imports torch and the subject only."""

from harness.corpus.script.compose import write

__all__ = ["write"]
