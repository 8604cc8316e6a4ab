"""What a running campaign shows: one live line in a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.campaign.campaign import Account

PIPE_SECONDS = 10.0
LIVE_SECONDS = 0.1


@contextmanager
def progress(console: Console, campaign: Account) -> Iterator[None]:
    """Show the campaign's counts while it runs."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            campaign.watch = _Every(LIVE_SECONDS, lambda c: live.update(Text(_line(c)), refresh=True))
            yield
    else:
        campaign.watch = _Every(PIPE_SECONDS, lambda c: console.print(Text(_line(c)), soft_wrap=True))
        yield


class _Every:
    """Calls through once in so many seconds."""

    def __init__(self, seconds: float, show) -> None:  # type: ignore[no-untyped-def]
        self._seconds, self._show, self._next = seconds, show, time.monotonic() + seconds

    def __call__(self, campaign: Account) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._show(campaign)


def _line(campaign: Account) -> str:
    tally = campaign.tally
    limit = "" if campaign.seconds is None else f" of {campaign.seconds:.0f} s"
    failing = campaign.failing
    return (
        f"{tally.seconds:5.0f}{limit}   {tally.cases} cases   {tally.rate:.1f} cases/s   "
        f"{failing} failure{'' if failing == 1 else 's'}   worst error/budget {tally.worst:.3g}"
        f"{'   shrinking' if campaign.is_shrinking else ''}"
    )
