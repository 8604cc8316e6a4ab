"""Runs a subject against oracles: `attest` for one case in your own tests, `flashattest` for campaigns.

The public names are imported when they are first used, so that the pytest plugin costs nobody torch's import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.judging.attest import attest
    from harness.judging.verdict import Failure
    from harness.pytest import profiles

__all__ = ["Failure", "attest", "profiles"]


def __getattr__(name: str) -> Any:
    if name == "attest":
        from harness.judging.attest import attest

        return attest
    if name == "Failure":
        from harness.judging.verdict import Failure

        return Failure
    if name == "profiles":
        from harness.pytest import profiles

        return profiles
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
