"""The page: sources one after the other, each with its numbers and its failures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.report import failure, heat_map, histogram
from harness.report.model import Source

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


def versions(by_name: Mapping[str, str]) -> str:
    """Versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in by_name.items())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        *(breakable, versions),
        *(failure.figures, failure.lines, failure.summary, failure.why_no_figure),
        *(heat_map.column_name, heat_map.paths, heat_map.row_name, heat_map.side, heat_map.step, heat_map.words),
        *(histogram.bars, histogram.bins_in_use, histogram.is_over, histogram.largest_bin, histogram.limit),
    )
    environment.filters.update({function.__name__: function for function in functions}, thousands="{:,}".format)
    environment.globals.update(levels=heat_map.LEVELS)
    return environment
