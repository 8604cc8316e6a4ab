"""How a failure reads: like a bug report, one fact a line."""

from __future__ import annotations

from harness.judging.verdict import Verdict

Fact = tuple[str, str]
"""What a line says, and of what: ("where", "O[0, 0, 3, 0]"). A line without a name goes on with the one above."""


def story(subject: str, case: object, verdict: Verdict) -> str:
    """The whole story of one failure: what, on which case, where, how far off, why that is too far, who agrees."""
    told = [f"  {name:8} {said}" for name, said in facts(subject, case, verdict)]
    return "\n".join(printable(line) for line in (headline(verdict), *told))


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey (escapes, line ends, marks of direction) spelled out.

    An exception's message, and all that stands in a saved failure, may be a stranger's.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def headline(verdict: Verdict) -> str:
    """What is wrong, in a line."""
    return f"{verdict.kind} (check {verdict.check}): {verdict.sentence}"


def facts(subject: str, case: object, verdict: Verdict) -> list[Fact]:
    """The story below its headline, fact by fact."""
    told = [("subject", subject), ("case", repr(case))]
    if verdict.where is not None:
        told += [
            ("where", f"{verdict.tensor}{list(verdict.where)}"),
            ("got", repr(verdict.got)),
            ("wanted", repr(verdict.wanted)),
            ("error", f"{_figure(verdict.error)}: {_figure(verdict.ratio)} x the budget of {_figure(verdict.budget)}"),
        ]
    if verdict.parts:
        told.append(("budget", ", ".join(f"{name} {_figure(part)}" for name, part in verdict.parts.items())))
    votes = [f"{oracle}: {vote}" for oracle, vote in verdict.votes.items()]
    return told + [("" if i else "oracles", vote) for i, vote in enumerate(votes)]


def _figure(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.3g}"
