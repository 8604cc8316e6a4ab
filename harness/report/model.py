"""What a report shows: sources, each a campaign or saved failures, and the failures of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.corpus.entries import Worst
from harness.judging.verdict import Verdict
from harness.report.again import Picture
from strategies import AttentionCase

Counts = Mapping[str, Mapping[str, int]]
Spread = Mapping[str, Mapping[str, Mapping[str, int]]]


@dataclass(frozen=True)
class Shown:
    """A failure as the page shows it. pictures: of the "smallest", "worst" and "larger" case, as far as there are any.

    met: cases and seconds until it was first met. fails: whether it failed when it was run again for this page.
    """

    subject: str
    device: str
    case: AttentionCase
    verdict: Verdict
    worst: Worst | None
    pictures: Mapping[str, Picture]
    file: str | None = None
    met: tuple[int, float] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    fails: bool | None = None


@dataclass(frozen=True)
class Account:
    """A campaign's numbers.

    worst: error/budget by dtype, and gradients: that of dQ, dK and dV, where they were asked for. coverage: cases by
    axis and class. never_hit: classes by axis. spread: cases by axis, class and bin of error/budget
    (`harness.campaign.distribution`). refusals: why, and how often.
    """

    subject: str
    device: str
    seed: int
    cases: int
    refused: int
    seconds: float
    rate: float
    worst: Mapping[str, float]
    coverage: Counts
    never_hit: Mapping[str, Sequence[str]]
    spread: Spread
    refusals: Mapping[str, int]
    versions: Mapping[str, str]
    gradients: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One thing that was named: a campaign (account says how it went) or saved failures.

    unread: a sentence for each file among them that is no saved failure.
    """

    name: str
    failures: tuple[Shown, ...]
    account: Account | None = None
    unread: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[Shown, ...]:
        """The failures that are not known to be mended; those that were seen to fail come first."""
        return tuple(sorted((s for s in self.failures if s.fails is not False), key=lambda shown: shown.fails is None))

    @property
    def mended(self) -> tuple[Shown, ...]:
        """The saved failures that do not fail here now."""
        return tuple(shown for shown in self.failures if shown.fails is False)
