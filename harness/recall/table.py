"""The outcome of a recall as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.recall.faults import EQUIVALENTS, Fault
from harness.recall.outcome import Recall, Share, shares, size

OURS = "flashattest"


def to_markdown(recall: Recall) -> str:
    """A summary table, one row a checker, and a table of all plants."""
    return "\n".join([*_summary(recall), "", *_faults(recall), "", *_rest(recall)]) + "\n"


def _summary(recall: Recall) -> Iterator[str]:
    wheres = list(shares(recall, "where"))
    yield from _head(["checker", "faults", "plants", *wheres, "false alarms"], "lrr" + "r" * len(wheres) + "r")
    controls = len(recall.controls)
    yield _row([f"**{OURS}**", *_counts(recall, recall.found, wheres), f"{len(recall.alarms)} of {controls}"])
    for name in sorted(recall.baselines, key=lambda name: -len(recall.found_by(name))):
        alarms = len(recall.fired(name, recall.controls))
        yield _row([name, *_counts(recall, recall.found_by(name), wheres), f"{alarms} of {controls}"])
    yield ""
    yield from _head(["plants", "found", "cases: median, most", "seconds: median, most"], "lrrr")
    for where, share in shares(recall, "where").items():
        yield _row([where, f"{share.found} of {share.total}", *_spread(share)])


def _counts(recall: Recall, found: Sequence[Fault], wheres: Sequence[str]) -> Iterator[str]:
    yield f"{len(recall.distinct_of(found))} of {len(recall.distinct)}"
    yield f"{len(found)} of {len(recall.faults)}"
    for where in wheres:
        of_all = sum(fault.where == where for fault in recall.faults)
        yield f"{sum(fault.where == where for fault in found)} of {of_all}"


def _spread(share: Share) -> tuple[str, str]:
    if share.cases is None or share.seconds is None:
        return "", ""
    return f"{share.cases[0]:g}, {share.cases[1]}", f"{share.seconds[0]:.2f}, {share.seconds[1]:.2f}"


def _faults(recall: Recall) -> Iterator[str]:
    names = recall.baselines
    columns = ["fault", "class", "where", "found by", "cases", "seconds", "shrunk to", *names]
    yield from _head(columns, "llllrrl" + "c" * len(names))
    for fault in recall.faults:
        ticks = ["✓" if recall.fired(name, [fault.id]) else "" for name in names]
        yield _row([_linked(fault), fault.group, fault.where, *_found(recall, fault), *ticks])


def _linked(fault: Fault) -> str:
    return fault.id if fault.source is None else f"[{fault.id}]({fault.source})"


def _found(recall: Recall, fault: Fault) -> list[str]:
    hunt, seen = recall.results[fault.id].hunt, recall.detections(fault)
    if not seen:
        return ["**missed**", str(hunt.cases), f"{hunt.seconds:.2f}", ""]
    checks = ", ".join(dict.fromkeys(each.check for each in seen))
    return [checks, str(hunt.cases), f"{hunt.seconds:.2f}", size(seen)]


def _rest(recall: Recall) -> Iterator[str]:
    for id, seen in recall.alarms.items():
        yield f"False alarm on `{id}`: {seen.kind} by {seen.check}, `{seen.shrunk!r}`"
    for id, why in recall.not_run.items():
        yield f"Not run: {id}, as {why}."
    yield ""
    yield from _head(["equivalent", "why no legal input shows it"], "ll")
    for id, equivalent in EQUIVALENTS.items():
        yield _row([id, equivalent.proof])


def _head(columns: Sequence[str], alignment: str) -> Iterator[str]:
    yield _row(columns)
    yield _row([{"l": "---", "r": "---:", "c": ":---:"}[side] for side in alignment])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
