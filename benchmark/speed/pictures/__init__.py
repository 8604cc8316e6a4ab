"""Pictures of the results, by name. A new one is one function, and one line here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from speed.results import Results
from speed.rows import PASSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Pictures = Iterator[tuple[str, Figure | None]]


def pictures(results: Results) -> Pictures:
    """The pictures of a run; None for one whose rows were not measured."""
    from speed.pictures import launch, memory, rates, savings, speedup

    for direction in PASSES:
        of = "" if direction == "forward" else f"_{direction}"
        for dtype in dict.fromkeys(timed.row.dtype for timed in results.timed):
            yield f"rates{of}_{dtype}", rates.rates(results, dtype, direction)
            yield f"speedup{of}_{dtype}", speedup.speedup(results, dtype, direction)
        yield f"memory{of}", memory.memory(results, direction)
        yield f"launch{of}", launch.launch(results, direction)
    yield "gqa", rates.shared_heads(results)
    yield "savings", savings.savings(results)


def save_all(made: Pictures, folder: Path) -> int:
    """Save each as PNG; 2, and what to do about it, without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print(
            "matplotlib is not installed, which draws the pictures: pip install 'flashattest[plot]'.", file=sys.stderr
        )
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in made:
        if figure is not None:
            _save(figure, folder / f"{name}.png")
            print(folder / f"{name}.png")
    return 0


def _save(figure: Figure, file: Path) -> None:
    """As a PNG of 128 colours, which look the same and take a third of the bytes."""
    from PIL import Image  # matplotlib needs it too

    drawn = BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=0.15)
    Image.open(drawn).convert("RGB").quantize(128).save(file, optimize=True)
