"""The mark that a person sets on a saved failure: known, so that it fails no build, or fixed."""

from __future__ import annotations

from dataclasses import dataclass

from harness.io.reading import fields, text
from strategies.spec import require

STATUSES = ("known", "fixed")


@dataclass(frozen=True)
class Mark:
    """status: one of STATUSES. A known failure is replayed and does not fail; a fixed one that fails is a relapse.

    Raises ValueError for another status, or a reason that is not one printable line.
    """

    status: str
    why: str = ""

    def __post_init__(self) -> None:
        require(self.status in STATUSES, f"A mark must be one of {', '.join(STATUSES)}, not {self.status!r}.")
        is_line = self.why.isprintable() and len(self.why) <= 1000
        require(is_line, "The reason of a mark must be at most 1000 printable characters.")

    def __str__(self) -> str:
        return f"{self.status}: {self.why}" if self.why else self.status

    def to_json(self) -> dict[str, str]:
        """Return plain JSON values; a reason that is not given is left out."""
        return {"status": self.status, **({"why": self.why} if self.why else {})}

    @classmethod
    def from_json(cls, data: object) -> Mark:
        """Read what `to_json` wrote. Raises ValueError, in one sentence, for anything else."""
        return cls(**fields("mark", data, {"status": text, "why": text}, optional={"why"}))
