"""How the pictures look: colours that the colour-blind can distinguish, panels laid out in inches.

Colours are of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), one a provider in every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, GREY, RULE = "#222222", "#6f6f6f", "#e3e3e3"
_OURS = ("#0072b2", "#45a3dd", "#004a75", "#7aa6c2")
_PEERS = {
    "sdpa_flash": "#d55e00",
    "sdpa_cudnn": "#009e73",
    "sdpa_efficient": "#c08a00",
    "sdpa_math": "#a9a9a9",
    "flex_compiled": "#cc79a7",
    "flash_attn": "#8c510a",
    "flash_attn_4": "#111111",
    "naive": "#7a7a7a",
}
_SPARE = "#5b3c88"
_MARKERS = {"sdpa_flash": "s", "sdpa_cudnn": "D", "sdpa_efficient": "v", "flex_compiled": "^", "flash_attn_4": "P"}
_MARKERS |= {"naive": "X", "sdpa_math": "x"}
_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))
SMALL, MEDIUM, LARGE = 8.0, 9.5, 13.0
THICK = 1.7
"""Lines of ours are wider, in points; those of others are not."""


@dataclass(frozen=True)
class Look:
    """The colour, marker and width of a provider's line, whether it is ours, and how far in front it lies."""

    colour: str
    marker: str
    width: float
    ours: bool
    front: float

    def draw(self, axes: Axes, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
        """Draw the provider's line."""
        style: dict[str, Any] = {
            "color": self.colour,
            "lw": self.width,
            "marker": self.marker,
            "ms": 4,
            "zorder": self.front,
        }
        axes.plot(xs, ys, label=label, **style)


def look(name: str, ours: Sequence[str]) -> Look:
    """How a provider looks; ours are bold and blue."""
    if name in ours:
        place = list(ours).index(name)
        return Look(_OURS[place % len(_OURS)], "o", 2.6 if place == 0 else 1.8, True, 4 - 0.1 * place)
    return Look(_PEERS.get(name, _SPARE), _MARKERS.get(name, "."), 1.4, False, 2)


@dataclass(frozen=True)
class Margins:
    """Inches around and between panels; `right` is the room for labels to the right of each panel."""

    left: float = 0.75
    right: float = 2.2
    top: float = 1.2
    bottom: float = 0.65
    gap: float = 0.75


def panels(rows: int, columns: int, size: tuple[float, float], margins: Margins) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows x columns panels of `size` inches, with room for labels to the right of each."""
    from matplotlib.figure import Figure

    width = margins.left + columns * (size[0] + margins.right) + (columns - 1) * 0.45
    height = margins.top + rows * size[1] + (rows - 1) * margins.gap + margins.bottom
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    made = []
    for row in range(rows):
        bottom = margins.bottom + (rows - 1 - row) * (size[1] + margins.gap)
        lefts = [margins.left + column * (size[0] + margins.right + 0.45) for column in range(columns)]
        boxes = [(left / width, bottom / height, size[0] / width, size[1] / height) for left in lefts]
        made.append([figure.add_axes(box) for box in boxes])
    for axes in (axes for row in made for axes in row):
        tidy(axes)
    return figure, made


def tidy(axes: Axes) -> None:
    """No frame, faint rules behind what is drawn."""
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=5, labelsize=SMALL, colors=GREY)
    axes.xaxis.label.set(fontsize=SMALL, color=GREY)
    axes.yaxis.label.set(fontsize=SMALL, color=GREY)


def title(figure: Figure, said: str, below: str) -> None:
    """A title at the upper left, and a line below it that says on what and with what."""
    width, height = figure.get_size_inches()
    figure.text(0.15 / width, 1 - 0.32 / height, said, fontsize=LARGE, fontweight="bold", color=INK, va="center")
    figure.text(0.15 / width, 1 - 0.60 / height, below, fontsize=SMALL, color=GREY, va="center")


def panel_title(axes: Axes, said: str) -> None:
    """A panel's own title, at its upper left."""
    axes.set_title(said, loc="left", fontsize=MEDIUM, color=INK, pad=8)


def machine_line(machine: dict[str, str]) -> str:
    """The device, the versions, the commits and the days."""
    days = dict.fromkeys(date[:10] for date in machine.get("date", "").split(" and ") if date)
    words = [machine.get("device", "an unknown device")]
    words += [f"{name} {machine[name]}" for name in ("torch", "triton", "commit") if name in machine]
    return " · ".join([*words, *([" and ".join(days)] if days else [])])


def tokens(N: float) -> str:
    """512, 1k, 16k."""
    return f"{N / 1024:g}k" if N >= 1024 else f"{N:g}"


def token_axis(axes: Axes, lengths: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each length, every second one where they would touch."""
    shown = sorted(set(lengths))
    shown = shown[(len(shown) - 1) % 2 :: 2] if len(shown) > 6 else shown
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, [tokens(N) for N in shown])
    axes.minorticks_off()
    axes.set_xlabel("tokens N")


def byte_axis(axis: Axis) -> None:
    """A logarithmic axis of bytes with a tick at each second or fourth power of two. Call it last."""
    from matplotlib.ticker import NullLocator

    low, high = sorted(axis.get_view_interval())
    powers = [power for power in range(0, 60, 2) if low <= 1 << power <= high]
    powers = powers[:: 1 + len(powers) // 9]
    axis.set_ticks([1 << power for power in powers], [in_bytes(1 << power) for power in powers])
    axis.set_minor_locator(NullLocator())


def in_bytes(count: float) -> str:
    """5 GB, 640 KB: in powers of 1024, with three digits."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def key(axes: Axes, marks: Sequence[tuple[str, str, bool, str]]) -> None:
    """What marks mean, in a line above the panel: of each its marker, colour, whether it is filled, and the words."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="none", marker=marker, color=colour, mfc=colour if filled else "white", label=said)
        for marker, colour, filled, said in marks
    ]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(marks), "columnspacing": 1.2}
    axes.legend(handles=handles, fontsize=SMALL, labelcolor="linecolor", frameon=False, handletextpad=0, **place)


def legend(axes: Axes) -> None:
    """Name the lines to the right of the panel, in their colours, from the highest end down; thick ones in bold."""
    lines: list[Any] = sorted(axes.get_legend_handles_labels()[0], key=lambda line: -line.get_ydata()[-1])
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "borderaxespad": 0.4}
    made = axes.legend(handles=lines, fontsize=SMALL, labelcolor="linecolor", frameon=False, handlelength=1, **place)
    for text, line in zip(made.get_texts(), lines, strict=True):
        text.set_fontweight("bold" if line.get_linewidth() > THICK else "normal")
