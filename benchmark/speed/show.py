"""The table that a run prints: a line for each row, a column for each provider."""

from __future__ import annotations

from statistics import geometric_mean

from speed.results import Outcome, Results, Timed
from speed.rows import Row

_SHAPE = "{:5} {:>3} {:>7} {:>6} {:>4}  {:24}"
_SHORT = {"out of memory": "no memory", "failed": "FAILED", "wrong": "WRONG"}


def head(names: list[str], host: bool) -> str:
    """The first line, with what a column holds: the rate, or with `host` microseconds."""
    unit = "us on the device / us of the host" if host else "TFLOP/s (share of the measured product)"
    shape = _SHAPE.format("dtype", "B", "Hq/Hk", "N", "d", "mask")
    return f"{shape}{''.join(f'  {name:>{_width(name)}}' for name in names)}  ours/best peer    [{unit}]"


def line(timed: Timed, names: list[str], ours: tuple[str, ...], host: bool = False) -> str:
    """A row and its outcomes."""
    got = {outcome.provider: outcome for outcome in timed.outcomes}
    cells = "".join(f"  {_cell(got.get(name), host):>{_width(name)}}" for name in names)
    ratio = ours_over_best(timed, ours)
    return f"{shape(timed.row)}{cells}  {'' if ratio is None else f'{ratio:.2f}'}".rstrip()


def shape(row: Row) -> str:
    """The row in fixed columns."""
    return _SHAPE.format(
        row.dtype, row.B, f"{row.Hq}/{row.Hk}", row.N, row.d, " ".join(["backward"] * row.backward + [mask(row)])
    )


def mask(row: Row) -> str:
    """What a query sees, in a word or two."""
    words = ["causal"] if row.causal else []
    if row.padding:
        words.append(f"{'ragged ' if row.ragged else ''}{row.padding:.0%} pad")
    return " ".join(words) or "full"


def ours_over_best(timed: Timed, ours: tuple[str, ...]) -> float | None:
    """The best of ours over the best of the others, in speed; None where either is missing."""
    rates = {name: outcome.tflops for name, outcome in timed.ok().items() if outcome.tflops}
    mine = [rate for name, rate in rates.items() if name in ours]
    peers = [rate for name, rate in rates.items() if name not in ours]
    return max(mine) / max(peers) if mine and peers else None


def summary(timed: list[Timed], ours: tuple[str, ...]) -> list[str]:
    """The first of ours over the best of the others, and over each of them: geometric mean, least and most."""
    rates = [{name: o.tflops for name, o in t.ok().items() if o.tflops} for t in timed]
    mine = next((name for name in ours if any(name in of for of in rates)), None)
    peers = [name for name in dict.fromkeys(name for of in rates for name in of) if name not in ours]
    lines = []
    for said, names in (("the best of the others", peers), *((name, [name]) for name in peers)):
        pairs = [(of.get(mine or ""), [of[name] for name in names if name in of]) for of in rates]
        ratios = [own / max(others) for own, others in pairs if own and others]
        if ratios:
            mean, least, most = geometric_mean(ratios), min(ratios), max(ratios)
            lines.append(f"{mine} / {said}, {len(ratios)} rows: {mean:.3f} (least {least:.3f}, most {most:.3f})")
    return lines


def not_timed(results: Results) -> list[str]:
    """Sentences on what was not timed, and why."""
    lines = [f"{name} is absent: {why}." for name, why in results.absent.items()]
    for timed in results.timed:
        for outcome in timed.outcomes:
            if outcome.status in ("failed", "wrong"):
                lines.append(f"{outcome.provider} {outcome.status} on {timed.row}: {outcome.why}.")
    return [*lines, *results.left_out]


def _cell(outcome: Outcome | None, host: bool) -> str:
    if outcome is None:
        return ""
    if outcome.ms is None:
        return _SHORT.get(outcome.status, outcome.status)
    if host:
        of_host = f"{1e3 * outcome.host_ms.median:.0f}" if outcome.host_ms else "-"
        return f"{1e3 * outcome.ms.median:.0f} / {of_host}"
    share = "" if outcome.share is None else f" ({outcome.share:.0%})"
    return f"{outcome.tflops:.3g}{share}"


def _width(name: str) -> int:
    return max(len(name), 11)
