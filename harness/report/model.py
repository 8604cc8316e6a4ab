"""What a report shows: sources, each a campaign or saved failures, and the failures of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.campaign.distribution import Distribution
from harness.corpus.entries import Worst
from harness.judging.verdict import Verdict
from harness.report.again import Picture
from strategies import AttentionCase

Counts = Mapping[str, Mapping[str, int]]
"""Cases by axis and class."""

Spread = Mapping[str, Counts]
"""Cases by axis, class and bin of error/budget (`harness.campaign.distribution`)."""


@dataclass(frozen=True)
class ReportedFailure:
    """A failure as the page shows it.

    pictures: of the "smallest", "worst" and "larger" case, as far as they exist. met: cases and seconds until a
    campaign met it first; None for a saved failure. fails: whether a saved failure failed when it was run again.
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
class CampaignNumbers:
    """A campaign's numbers.

    worst: error/budget by dtype. gradients: error/budget of dQ, dK and dV, if they were asked for. never_hit: classes
    by axis. distribution: of error/budget. refusals: how often, by reason.
    """

    subject: str
    device: str
    seed: int
    cases: int
    refused: int
    seconds: float
    cases_per_second: float
    worst: Mapping[str, float]
    coverage: Counts
    never_hit: Mapping[str, Sequence[str]]
    distribution: Spread
    refusals: Mapping[str, int]
    versions: Mapping[str, str]
    gradients: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One thing named on the command line: a campaign or saved failures.

    unread: a sentence for each file among saved failures that cannot be read.
    """

    name: str
    failures: tuple[ReportedFailure, ...]
    campaign: CampaignNumbers | None = None
    unread: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Heading of the source."""
        campaign = self.campaign
        return f"Campaign: {campaign.subject} on {campaign.device}" if campaign else f"Saved failures in {self.name}"

    @property
    def open(self) -> list[ReportedFailure]:
        """The failures not known to pass; those that were seen to fail come first."""
        return sorted((f for f in self.failures if f.fails is not False), key=lambda failure: failure.fails is None)

    @property
    def passing(self) -> list[ReportedFailure]:
        """The saved failures that do not fail here now."""
        return [failure for failure in self.failures if failure.fails is False]

    @property
    def spread(self) -> Spread:
        """The spread of error/budget: of a campaign's cases, or of the saved failures that are about numbers."""
        if self.campaign is not None:
            return self.campaign.distribution
        counted = Distribution()
        for failure in self.failures:
            if failure.verdict.tensor is not None:
                counted.add(failure.case, failure.verdict.ratio)
        return counted.to_json()


def versions(by_name: Mapping[str, str]) -> str:
    """Versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in by_name.items())
