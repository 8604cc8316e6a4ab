"""Writes a failure as a bug report, one fact per line."""

from __future__ import annotations

from harness.judging.verdict import Verdict

Fact = tuple[str, str]
"""A line's name and text: ("where", "O[0, 0, 3, 0]"). A line without a name continues the one above."""


def story(subject: str, case: object, verdict: Verdict) -> str:
    """Return the full report of one failure: what, on which case, where, how far off, the budget, and the votes."""
    lines = [f"  {name:8} {said}" for name, said in facts(subject, case, verdict)]
    return "\n".join(printable(line) for line in (headline(verdict), *lines))


def printable(text: str) -> str:
    """Return the text in one line, with control characters (escapes, line ends, direction marks) spelled out.

    Exception messages and saved failures are untrusted text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def headline(verdict: Verdict) -> str:
    """Return what is wrong, in one line."""
    return f"{verdict.kind} (check {verdict.check}): {verdict.sentence}"


def facts(subject: str, case: object, verdict: Verdict) -> list[Fact]:
    """Return the facts of the report, below its headline."""
    found = [("subject", subject), ("case", repr(case))]
    if verdict.where is not None:
        found += [
            ("where", f"{verdict.tensor}{list(verdict.where)}"),
            ("got", repr(verdict.got)),
            ("wanted", repr(verdict.wanted)),
            ("error", f"{_figure(verdict.error)}: {_figure(verdict.ratio)} x the budget of {_figure(verdict.budget)}"),
        ]
    if verdict.parts:
        found.append(("budget", ", ".join(f"{name} {_figure(part)}" for name, part in verdict.parts.items())))
    votes = [f"{oracle}: {vote}" for oracle, vote in verdict.votes.items()]
    return found + [("" if i else "oracles", vote) for i, vote in enumerate(votes)]


def _figure(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"
