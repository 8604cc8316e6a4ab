"""What a running campaign shows: one live line in a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.campaign.campaign import Watch
from harness.campaign.parallel.jobs import AnyCampaign

PIPE_SECONDS = 10.0
LIVE_SECONDS = 0.1


@contextmanager
def progress(console: Console) -> Iterator[Watch]:
    """Yield a watch that shows a campaign's counts while it runs."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield _Every(LIVE_SECONDS, lambda line: live.update(line, refresh=True))
    else:
        yield _Every(PIPE_SECONDS, lambda line: console.print(line, soft_wrap=True))


class _Every:
    """A watch that shows the line of a campaign, at most once in some seconds."""

    def __init__(self, seconds: float, show: Callable[[Text], None]) -> None:
        self._seconds, self._show, self._next = seconds, show, time.monotonic() + seconds

    def __call__(self, campaign: AnyCampaign) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._show(Text(_line(campaign)))


def _line(campaign: AnyCampaign) -> str:
    tally = campaign.tally
    limit = "" if campaign.seconds is None else f" of {campaign.seconds:.0f} s"
    failing = campaign.failing
    return (
        f"{tally.seconds:5.0f}{limit}   {tally.cases} cases   {tally.rate:.1f} cases/s   "
        f"{failing} failure{'' if failing == 1 else 's'}   worst error/budget {tally.worst:.3g}"
        f"{'   shrinking' if campaign.is_shrinking else ''}"
    )
