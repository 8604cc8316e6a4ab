"""Draw recall against time, one line a checker, from what `flashattest recall --baselines --json FILE` wrote.

    python benchmark/plot_recall.py torch.json kernel.json --out recall.png

The plants of several files are taken together. Needs matplotlib (pip install 'flashattest[plot]').
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speed.pictures import save_all, style

if TYPE_CHECKING:
    from speed.pictures import Pictures

OURS = "flashattest"
COLOURS = ("#0b5cad", "#d1495b", "#b7791f", "#66a182", "#8d6a9f", "#6b705c", "#00798c")
FIRST = 1e-3
"""Seconds where the axis begins; what takes less is drawn there."""
MARKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min"}

Plants = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="from recall --json")
    parser.add_argument("--out", type=Path, default=Path("recall.png"))
    asked = parser.parse_args(arguments)
    plants = [plant for file in asked.files for plant in json.loads(file.read_text())["faults"]]
    return save_all(_pictures(plants, asked.out.stem), asked.out.parent)


def times(plants: Plants) -> dict[str, list[float]]:
    """Seconds to the first failure of each plant that a checker finds, by checker, sorted."""
    found = {OURS: sorted(plant["seconds"] for plant in plants if plant["found"])}
    for name in dict.fromkeys(name for plant in plants for name in plant["baselines"]):
        fired = (plant["baselines"][name] for plant in plants if name in plant["baselines"])
        found[name] = sorted(each["seconds"] for each in fired if each["fired"])
    return found


def _pictures(plants: Plants, name: str) -> Pictures:
    found = times(plants)
    last = 1.6 * max((seconds[-1] for seconds in found.values() if seconds), default=1.0)
    figure, ((axes,),) = style.panels(1, 1, (6.4, 3.8), style.Margins(top=0.95))
    axes.set_xscale("log")
    axes.set_xlim(FIRST, last)
    axes.set_ylim(0, 103)
    for checker, colour in zip(sorted(found, key=lambda checker: -len(found[checker])), COLOURS, strict=False):
        shares = [100 * n / len(plants) for n in range(len(found[checker]) + 1)]
        xs = [FIRST, *(max(FIRST, seconds) for seconds in found[checker]), last]
        width, said = 2.6 if checker == OURS else 1.5, f"{checker}  {len(found[checker])}"
        axes.step(xs, [*shares, shares[-1]], where="post", color=colour, lw=width, label=said)
    shown = {x: said for x, said in MARKS.items() if x <= last}
    axes.set_xticks(list(shown), list(shown.values()))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_xlabel("time until the checker fails the plant")
    style.legend(axes)
    style.title(figure, "The share found, against time", f"{len(plants)} plants")
    yield name, figure


if __name__ == "__main__":
    sys.exit(main())
