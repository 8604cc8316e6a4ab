"""The rows of a run as a table of Markdown: rates, the fastest bold, and ours over the others."""

from __future__ import annotations

from collections.abc import Sequence

from speed.results import Results, Timed


def table(results: Results, preset: str, names: Sequence[str] = ()) -> list[str]:
    """The rows of a preset by d, N and mask, a column for each provider named, all by default.

    The last column is the first of ours over the fastest of all others that were timed, named or not.
    """
    timed = sorted(results.of(preset), key=lambda t: (t.row.d, t.row.N, t.row.causal))
    shown = list(names) or [name for name in results.labels if any(name in t.ok() for t in timed)]
    labels = [results.labels[name].removesuffix(" (SDPA)") for name in shown]
    head = ["d", "N", "causal", *labels, "ours / best of the others"]
    rule = f"|---:|---:|---|{'---:|' * len(shown)}---:|"
    return [_line(head), rule, *(_line(_cells(each, shown, results.ours)) for each in timed)]


def _cells(timed: Timed, names: Sequence[str], ours: tuple[str, ...]) -> list[str]:
    rates = {name: outcome.tflops for name, outcome in timed.ok().items() if outcome.tflops}
    best = max(rates.values(), default=0.0)
    shape = [str(timed.row.d), f"{timed.row.N:,}", "yes" if timed.row.causal else "no"]
    return [*shape, *(_rate(rates.get(name), best) for name in names), _ratio(rates, ours)]


def _rate(rate: float | None, best: float) -> str:
    if rate is None:
        return ""
    return f"**{rate:.0f}**" if rate == best else f"{rate:.0f}"


def _ratio(rates: dict[str, float], ours: tuple[str, ...]) -> str:
    mine = next((rates[name] for name in ours if name in rates), None)
    others = [rate for name, rate in rates.items() if name not in ours]
    return f"{mine / max(others):.2f}" if mine and others else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
