"""The page: sources one after the other, each with its numbers and its failures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.report import failure, heat_map, histogram
from harness.report.model import Source, versions

_BREAKS = re.compile(r"(?<=[(/_])(?=\w)|(?<=\.)(?=[A-Za-z_])")


def page(sources: Sequence[Source]) -> str:
    """The whole page as HTML that needs nothing else: no script, and nothing that is loaded.

    Text of a case, subject or file may be a stranger's: the templates escape all of it.
    """
    return _environment().get_template("page.html").render(sources=sources, lead=counted(sources))


def counted(sources: Sequence[Source]) -> str:
    """How many failures are not known to pass, and how many are."""
    failures, passing = (sum(map(len, found)) for found in zip(*((s.open, s.passing) for s in sources), strict=True))
    counts = f"{failures} failure{'' if failures == 1 else 's'}"
    return f"{counts}, {passing} more that do{'es' if passing == 1 else ''} not fail here now" if passing else counts


def breakable(text: str) -> Markup:
    """Escaped text that a narrow line breaks after a sign, sooner than within a word."""
    return Markup("<wbr>").join(escape(part) for part in _BREAKS.split(text))


def hits(classes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The classes that were hit with their cases, most first."""
    return sorted(((name, cases) for name, cases in classes.items() if cases), key=lambda pair: -pair[1])


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        *(breakable, hits, versions),
        *(failure.figures, failure.lines, failure.summary, failure.why_no_figure),
        *(heat_map.column_name, heat_map.paths, heat_map.row_name, heat_map.side, heat_map.step, heat_map.words),
        *(histogram.bars, histogram.bins_in_use, histogram.is_over, histogram.largest_bin, histogram.limit),
    )
    environment.filters.update({function.__name__: function for function in functions}, thousands="{:,}".format)
    environment.globals.update(levels=heat_map.LEVELS)
    return environment
