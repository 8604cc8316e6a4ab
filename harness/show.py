"""How a failure reads: like a bug report, one fact a line."""

from __future__ import annotations

from harness.verdict import Verdict


def story(subject: str, case: object, verdict: Verdict) -> str:
    """The whole story of one failure: what, on which case, where, how far off, why that is too far, who agrees."""
    lines = [
        f"{verdict.kind} (check {verdict.check}): {verdict.sentence}",
        f"  subject  {subject}",
        f"  case     {case!r}",
    ]
    if verdict.where is not None:
        lines += [
            f"  where    {verdict.tensor}{list(verdict.where)}",
            f"  got      {verdict.got!r}",
            f"  wanted   {verdict.wanted!r}",
            f"  error    {_figure(verdict.error)}: {_figure(verdict.ratio)} x the budget of {_figure(verdict.budget)}",
        ]
    if verdict.parts:
        lines.append("  budget   " + ", ".join(f"{name} {_figure(part)}" for name, part in verdict.parts.items()))
    for oracle, vote in verdict.votes.items():
        lines.append(f"  {'oracles ' if oracle == next(iter(verdict.votes)) else '        '} {oracle}: {vote}")
    return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey (escapes, line ends, marks of direction) spelled out.

    An exception's message, and all that stands in a saved failure, may be a stranger's.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _figure(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"
