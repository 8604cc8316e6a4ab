"""Runs a subject against oracles: `attest` for one case in your own tests, `flashattest` for campaigns.

The public names are imported when they are first used, so that the pytest plugin costs nobody torch's import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.attesting import attest
    from harness.verdict import Failure

__all__ = ["Failure", "attest"]


def __getattr__(name: str) -> Any:
    if name == "attest":
        from harness.attesting import attest

        return attest
    if name == "Failure":
        from harness.verdict import Failure

        return Failure
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
