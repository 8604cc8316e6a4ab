"""Ours against the best of the others and against FlashAttention-2, a line for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speed.pictures import style
from speed.pictures.rates import is_plain
from speed.results import Results, Timed
from speed.rows import Row
from speed.show import mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FA2 = ("sdpa_flash", "flash_attn")
_BEST, _FA2 = style.look("ours", ["ours"]).colour, style.look("sdpa_flash", []).colour
_KEY = (
    ("o", _BEST, True, "against the fastest other, named at the right"),
    ("s", _FA2, True, "against FlashAttention-2"),
)


def speedup(results: Results, dtype: str, direction: str = "forward") -> Figure | None:
    """How many times as fast ours is in a pass; None where no other was timed."""
    of_presets = results.of("peers", "fa2", "backward", "grid", "quick")
    plain = [t for t in of_presets if is_plain(t.row) and (t.row.dtype, t.row.direction) == (dtype, direction)]
    timed = [t for t in _once(plain) if _ratios(t, results.ours)]
    if not timed:
        return None
    margins, places = style.Margins(left=1.6, right=2.1, top=1.2), _places(timed)
    figure, ((axes,),) = style.panels(1, 1, (4.6, 0.24 * -min(places) + 0.4), margins)
    for y, each in zip(places, timed, strict=True):
        _line(axes, results, each, y)
    axes.axvline(1, color=style.INK, lw=1)
    axes.set_ylim(min(places) - 0.8, 0.8)
    axes.set_yticks(places, [_name(t) for t in timed])
    axes.grid(axis="y", visible=False)
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.5, low), max(1.5, high))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("speed of ours over that of the other; right of the line ours is faster")
    style.title(figure, f"Ours against the others, {direction}, {dtype}", style.machine_line(results.machine))
    style.key(axes, _KEY)
    return figure


def _places(timed: list[Timed]) -> list[float]:
    """Heights from 0 downwards, with a gap before each new d."""
    places, y = [], 0.0
    for before, each in zip([timed[0], *timed], timed, strict=False):
        y -= 0.0 if each is timed[0] else 1.0 if before.row.d == each.row.d else 1.7
        places.append(y)
    return places


def _line(axes: Axes, results: Results, timed: Timed, y: float) -> None:
    """One row: a mark against FlashAttention-2, a mark against the fastest of all, and who that is."""
    ratios = _ratios(timed, results.ours)
    axes.plot([min(1, *ratios.values()), max(1, *ratios.values())], [y, y], color=style.RULE, lw=2.5, zorder=1)
    if "fa2" in ratios:
        axes.plot(ratios["fa2"], y, "s", color=_FA2, ms=5.5, zorder=2)
    axes.plot(ratios["best"], y, "o", color=_BEST, ms=7.5, zorder=3)
    peers = {name: outcome.tflops or 0 for name, outcome in timed.ok().items() if name not in results.ours}
    said = f"{ratios['best']:.2f}x  {results.labels[max(peers, key=lambda name: peers[name])]}"
    look = {"fontsize": style.SMALL, "color": style.INK, "va": "center"}
    axes.text(1.03, y, said, look, transform=axes.get_yaxis_transform())


def _ratios(timed: Timed, ours: tuple[str, ...]) -> dict[str, float]:
    """Ours over the best other and over FlashAttention-2, in speed; empty where either side is missing."""
    rates = {name: outcome.tflops for name, outcome in timed.ok().items() if outcome.tflops}
    mine = max((rate for name, rate in rates.items() if name in ours), default=None)
    peers = {name: rate for name, rate in rates.items() if name not in ours}
    if mine is None or not peers:
        return {}
    fa2 = next((peers[name] for name in FA2 if name in peers), None)
    return {"best": mine / max(peers.values())} | ({"fa2": mine / fa2} if fa2 else {})


def _once(timed: list[Timed]) -> list[Timed]:
    """Each row once, where it was timed with the most others, by d, mask and N."""
    kept: dict[Row, Timed] = {}
    for each in timed:
        kept[each.row] = max(kept.get(each.row, each), each, key=lambda t: len(t.ok()))
    return sorted(kept.values(), key=lambda t: (t.row.d, t.row.causal, t.row.N))


def _name(timed: Timed) -> str:
    return f"d {timed.row.d}   {mask(timed.row)}   N {style.tokens(timed.row.N):>3}"
