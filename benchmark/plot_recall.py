"""Recall against time, one line a checker, from what `flashattest recall --baselines --json FILE` wrote.

    python benchmark/plot_recall.py torch.json kernel.json --out recall.png

Several files are taken together, as far as each has other faults. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

OURS = "flashattest"
COLOURS = ("#0b5cad", "#d1495b", "#b7791f", "#66a182", "#8d6a9f", "#6b705c", "#00798c")
LEFT = 1e-3
"""Where the axis of seconds begins: nothing worth telling apart takes less."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="from recall --json")
    parser.add_argument("--out", type=Path, default=Path("recall.png"))
    asked = parser.parse_args()
    try:
        import matplotlib as mpl
    except ImportError:
        print("plot_recall: matplotlib is not installed; pip install matplotlib.", file=sys.stderr)
        return 2
    mpl.use("Agg")
    faults = [fault for file in asked.files for fault in json.loads(file.read_text())["faults"]]
    plot(faults, asked.out)
    return 0


def times(faults: list[dict]) -> dict[str, list[float]]:
    """Seconds to the first failure of each fault that a checker finds, by checker, sorted."""
    found = {OURS: sorted(fault["seconds"] for fault in faults if fault["found"])}
    for name in dict.fromkeys(name for fault in faults for name in fault["baselines"]):
        fired = (fault["baselines"][name] for fault in faults if name in fault["baselines"])
        found[name] = sorted(each["seconds"] for each in fired if each["fired"])
    return found


def plot(faults: list[dict], out: Path) -> None:
    from matplotlib import pyplot as plt

    found = times(faults)
    right = 1.6 * max((seconds[-1] for seconds in found.values() if seconds), default=1.0)
    figure, axes = plt.subplots(figsize=(8.6, 4.8), dpi=160)
    by_recall = sorted(found, key=lambda name: -len(found[name]))
    heights = apart([100 * len(found[name]) / len(faults) for name in by_recall], least=4.6)
    for name, height, colour in zip(by_recall, heights, COLOURS, strict=False):
        shares = [100 * n / len(faults) for n in range(len(found[name]) + 1)]
        xs = [LEFT, *(max(LEFT, seconds) for seconds in found[name]), right]
        axes.step(xs, [*shares, shares[-1]], where="post", color=colour, linewidth=2.6 if name == OURS else 1.5)
        weight = "bold" if name == OURS else "normal"
        label = f"{name}  {len(found[name])}"
        axes.text(right * 1.08, height, label, color=colour, va="center", fontsize=9.5, fontweight=weight)
    axes.set_xscale("log")
    axes.set_xlim(LEFT, right)
    axes.set_ylim(0, 103)
    axes.set_xticks(*ticks(right))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_xlabel("time until the checker fails the fault")
    axes.set_title(f"{len(faults)} planted faults: the share found, against time", loc="left", fontsize=11.5)
    axes.grid(axis="both", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=7)
    figure.tight_layout()
    figure.savefig(out, bbox_inches="tight")


def apart(heights: list[float], least: float) -> list[float]:
    """The heights, highest first, moved down where a label would lie over the one above it."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - least) if placed else height)
    return placed


def ticks(right: float) -> tuple[list[float], list[str]]:
    marks = {0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min"}
    shown = [x for x in marks if LEFT <= x <= right]
    return shown, [marks[x] for x in shown]


if __name__ == "__main__":
    sys.exit(main())
