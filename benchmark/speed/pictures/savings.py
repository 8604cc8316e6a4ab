"""What early exit saves: causal time over full time against N, and padded time over full time against what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from speed.pictures import style
from speed.results import Results, Timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[str, list[tuple[float, float]]]


def savings(results: Results) -> Figure | None:
    """Both, a panel for each d and for padding; None where neither was measured."""
    causal = {d: points for d in _dims(results) if (points := causal_cost(results, d))}
    padded = {masked: points for masked in (0, 1) if (points := padding_cost(results, bool(masked)))}
    if not causal and not padded:
        return None
    margins, kinds = style.Margins(), [kind for kind in (causal, padded) if kind]
    figure, made = style.panels(len(kinds), max(map(len, kinds)), (3.0, 2.5), margins)
    for d, points, axes in _next_to(causal, made[0]):
        style.panel_title(axes, f"causal over full, d {d}")
        _causal_panel(axes, results, points)
    for masked, points, axes in _next_to(padded, made[-1]):
        style.panel_title(axes, f"padded over unpadded, {'causal' if masked else 'full'}")
        _padding_panel(axes, results, points, bool(masked))
    said = "Early exit: the time that is left when less is seen"
    style.title(figure, said, style.machine_line(results.machine))
    return figure


def _next_to(kind: dict[int, Points], across: list[Axes]) -> list[tuple[int, Points, Axes]]:
    """Each entry with its panel; a panel of the row that has none is taken away."""
    for axes in across[len(kind) :] if kind else []:
        axes.remove()
    return [(key, points, axes) for (key, points), axes in zip(kind.items(), across, strict=False)]


def causal_cost(results: Results, d: int) -> Points:
    """By provider: N, and the causal time over the full one of the same shape."""
    pairs = [pair for preset in ("peers", "causal") for pair in _causal_pairs(results, preset, d)]
    return _ratios(pairs)


def _causal_pairs(results: Results, preset: str, d: int) -> list[tuple[int, Timed, Timed]]:
    """N, the full row and its causal twin, both of one preset: another preset may have other providers."""
    timed = {t.row: t for t in results.of(preset) if t.row.d == d}
    dtype = next((row.dtype for row in timed), None)
    pairs = []
    for row, full in timed.items():
        twin = timed.get(type(row)(**{**vars(row), "causal": True}))
        if not row.causal and row.dtype == dtype and twin is not None:
            pairs.append((row.N, full, twin))
    return pairs


def padding_cost(results: Results, masked: bool) -> Points:
    """By provider: the share of the keys that is seen, and the time over that without padding; lengths alike."""
    timed = [t for t in results.of("padding") if t.row.causal == masked and not t.row.ragged]
    whole = next((t for t in timed if t.row.padding == 0), None)
    return _ratios([(1 - t.row.padding, whole, t) for t in timed]) if whole else {}


def _ratios(pairs: Sequence[tuple[float, Timed, Timed]]) -> Points:
    """Of (x, whole, part): by provider x and the time of the part over that of the whole; of twins the last."""
    points: dict[str, dict[float, float]] = {}
    for x, whole, part in pairs:
        for name, outcome in part.ok().items():
            base = whole.ok().get(name)
            if base is not None and base.ms is not None and outcome.ms is not None:
                points.setdefault(name, {})[x] = outcome.ms.median / base.ms.median
    return {name: sorted(of.items()) for name, of in points.items()}


def _dims(results: Results) -> list[int]:
    return sorted({t.row.d for t in results.of("peers", "causal")})


def _causal_panel(axes: Axes, results: Results, points: Points) -> None:
    _draw(axes, results, points)
    lengths = sorted({int(x) for of in points.values() for x, _ in of})
    axes.axhline(0.5, color=style.GREY, lw=1, ls=(0, (4, 3)), label="half the work")
    axes.set_ylim(0.4, max(1.05, *(y for of in points.values() for _, y in of)))
    axes.set_ylabel("causal time / full time")
    style.token_axis(axes, lengths)
    style.legend(axes)


def _padding_panel(axes: Axes, results: Results, points: Points, masked: bool) -> None:
    _draw(axes, results, points)
    seen = [step / 20 for step in range(21)]
    work = [share * (2 - share) if masked else share for share in seen]  # as `speed.rows.visible_pairs` counts it
    axes.plot(seen, work, color=style.GREY, lw=1, ls=(0, (4, 3)), label="as the work")
    axes.set_xlim(1.03, 0)
    axes.set_ylim(-0.12, 1.06 * max(1.0, *(y for of in points.values() for _, y in of)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of the keys that is seen")
    axes.set_ylabel("time / time without padding")
    style.legend(axes)


def _draw(axes: Axes, results: Results, points: Points) -> None:
    for name, of in points.items():
        look = style.look(name, results.ours)
        xs, ys = zip(*of, strict=True)
        said = f"{results.labels[name]}  {ys[0] if xs[0] < 1 else ys[-1]:.2f}"
        look.draw(axes, xs, ys, said)
