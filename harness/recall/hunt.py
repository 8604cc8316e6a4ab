"""A campaign that ends at its first detection: how many cases and seconds it takes to find a planted fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from harness.campaign.campaign import Campaign, Watch, unwatched
from harness.campaign.finding import FaultKey, Finding
from harness.judging.examine import Examiner
from harness.subject.declaration import Subject
from strategies import AttentionCase


@dataclass(frozen=True)
class Seen:
    """A failure that a campaign saw: its kind, the check, and how many cases and seconds after the start."""

    kind: str
    check: str
    sentence: str
    cases: int
    seconds: float
    first: AttentionCase
    shrunk: AttentionCase


@dataclass(frozen=True)
class Hunt:
    """The cases and seconds until the first failure of a wanted kind, or of the whole hunt; every failure, in order."""

    cases: int
    seconds: float
    seen: tuple[Seen, ...]

    def of(self, kinds: Collection[str]) -> tuple[Seen, ...]:
        """The failures of some kinds, the earliest first."""
        return tuple(each for each in self.seen if each.kind in kinds)


@dataclass(frozen=True)
class HuntLimits:
    """The device and the seed of a hunt, and the seconds and cases after which it gives up (cases None: no limit).

    shrink: seconds that shrinking a failure may take; recall does not measure it.
    """

    device: str
    seed: int
    seconds: float
    cases: int | None = None
    shrink: float = 5.0

    def minus(self, cases: int, seconds: float) -> HuntLimits:
        """What is left of the limits after some cases and seconds."""
        left = None if self.cases is None else self.cases - cases
        return replace(self, seconds=self.seconds - seconds, cases=left)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.seconds <= 0 or (self.cases is not None and self.cases <= 0)


def hunt(
    subject: Subject,
    wanted: Collection[str],
    limits: HuntLimits,
    watch: Watch = unwatched,
    examiner: Callable[[], Examiner | None] = lambda: None,
) -> Hunt:
    """Run cases until a failure of a wanted kind is shrunk or a limit is reached; call `watch` after every case.

    A failure of another kind is recorded and ignored from then on; the hunt continues with a new examiner.
    Raises KeyboardInterrupt on Ctrl-C.
    """
    cases, seconds, number, seen = 0, 0.0, 0, list[Seen]()
    known: dict[FaultKey, Finding] = {}
    while True:
        until, left = _Until(wanted, limits.shrink, watch), limits.minus(cases, seconds)
        seed = limits.seed + (number << 32)
        campaign = Campaign(
            subject,
            limits.device,
            seed,
            left.seconds,
            left.cases,
            findings=dict(known),
            examiner=examiner(),
        )
        campaign.run(until)
        fresh = [campaign.findings[fault] for fault in campaign.findings if fault not in known]
        seen += sorted((_seen(finding, cases, seconds) for finding in fresh), key=lambda each: each.seconds)
        known |= campaign.findings
        found = next((each for each in seen if each.kind in wanted), None)
        if found is not None:
            return Hunt(found.cases, found.seconds, tuple(seen))
        cases, seconds, number = cases + campaign.tally.cases, seconds + campaign.tally.seconds, number + 1
        if limits.minus(cases, seconds).is_over:
            return Hunt(cases, seconds, tuple(seen))
        if not until.is_enough:
            raise KeyboardInterrupt


def _seen(finding: Finding, cases: int, seconds: float) -> Seen:
    """A finding of a campaign that began after `cases` cases and `seconds` seconds."""
    verdict = finding.verdict
    when = (cases + finding.cases_to_first, seconds + finding.seconds_to_first)
    return Seen(verdict.kind, verdict.check, verdict.sentence, *when, finding.first, finding.shrunk)


class _Until:
    """Ends a campaign, as Ctrl-C does, once a wanted kind is known, or a failure has been shrunk for long enough."""

    def __init__(self, wanted: Collection[str], shrink: float, watch: Watch) -> None:
        self._wanted, self._shrink, self._watch = wanted, shrink, watch
        self._shrinking_since: float | None = None
        self.is_enough = False

    def __call__(self, campaign: Campaign, /) -> None:
        self._watch(campaign)
        self.is_enough = self._is_found(campaign) or self._is_shrunk(campaign)
        if self.is_enough:
            raise KeyboardInterrupt

    def _is_found(self, campaign: Campaign) -> bool:
        return any(finding.verdict.kind in self._wanted for finding in campaign.findings.values())

    def _is_shrunk(self, campaign: Campaign) -> bool:
        if not campaign.is_shrinking:
            self._shrinking_since = None
            return False
        if self._shrinking_since is None:
            self._shrinking_since = time.monotonic()
        return time.monotonic() - self._shrinking_since > self._shrink
