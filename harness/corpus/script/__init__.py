"""A saved failure as a Python script of its own, for an issue tracker: torch and the subject, nothing of ours."""

from harness.corpus.script.compose import write

__all__ = ["write"]
