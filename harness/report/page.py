"""The page: sources one after the other, each with its numbers and its failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template

from harness.report import account
from harness.report.failure import article, figures, legend, state, summary
from harness.report.markup import Html, element, joined
from harness.report.model import Shown, Source
from harness.report.style import STYLE

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
$title
$style
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<svg width="0" height="0" aria-hidden="true" style="position:absolute"><defs>
<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="5" height="5" style="fill:var(--h7)"/><rect width="1.5" height="5" style="fill:var(--h7-line)"/>
</pattern></defs></svg>
<header><h1>Flashattest report</h1>$lead</header>
<main id="content">
$content
</main>
<footer><p>Error/budget: the error of an element over the error that a right kernel may make there, computed from the
case itself. A cell of a heat map shows its largest element.</p></footer>
</body>
</html>
""")


def page(sources: Sequence[Source]) -> str:
    """The whole page as HTML that stands by itself: no script, and nothing that is loaded."""
    sections = [_section(source, f"s{i}") for i, source in enumerate(sources)]
    lead = counted(sources)
    parts = {"title": element("title", f"Flashattest: {lead}"), "style": element("style", Html(STYLE))}
    return _PAGE.substitute(parts, lead=_lead(sources, lead), content=joined(sections))


def counted(sources: Sequence[Source]) -> str:
    """How many failures there are that are not known to be mended."""
    failures, mended = (sum(map(len, found)) for found in zip(*((s.open, s.mended) for s in sources), strict=True))
    said = f"{failures} failure{'' if failures == 1 else 's'}"
    return f"{said}, {mended} more that do{'es' if mended == 1 else ''} not fail here now" if mended else said


def _lead(sources: Sequence[Source], lead: str) -> Html:
    is_clean = not any(source.open for source in sources)
    said = element("p", element("strong", f"{lead}.", class_="good" if is_clean else "bad"))
    if len(sources) < 2:
        return said
    links = [element("li", element("a", title(source), href=f"#s{i}")) for i, source in enumerate(sources)]
    return joined([said, element("nav", element("ul", *links), aria_label="Sources")])


def title(source: Source) -> str:
    """What a source is called."""
    told = source.account
    return f"Saved failures in {source.name}" if told is None else f"Campaign: {told.subject} on {told.device}"


def _section(source: Source, anchor: str) -> Html:
    parts = [element("h2", title(source)), *(_of_corpus(source) if source.account is None else _of_campaign(source))]
    spread = source.account.spread if source.account else account.spread_of(source.failures)
    parts += [_failures(source, anchor), account.distribution(spread, _counted_things(source))]
    parts.append(account.coverage(source.account) if source.account else None)
    return element("section", joined(parts), id=anchor)


def _counted_things(source: Source) -> str:
    return "cases" if source.account else "saved failures"


def _of_campaign(source: Source) -> list[Html | None]:
    told = source.account
    assert told is not None
    versions = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    said = element("p", f"Seed {told.seed}; {versions}.", class_="muted")
    return [said, account.tiles(account.of_campaign(told, len(source.failures))), account.refusals(told)]


def _of_corpus(source: Source) -> list[Html | None]:
    unread = [element("p", sentence, class_="bad") for sentence in source.unread]
    return [account.tiles(account.of_corpus(source)), *unread]


def _failures(source: Source, anchor: str) -> Html:
    """The failures in full, and folded those that are mended."""
    if not source.failures:
        return joined([element("h3", "Failures"), element("p", "There is none.", class_="good")])
    names = {id(shown): f"{anchor}f{i}" for i, shown in enumerate((*source.open, *source.mended))}
    colours = legend() if any(figures(shown) for shown in source.open) else None
    parts = [element("h3", "Failures"), _index(source.open, names), colours, *_articles(source.open, names)]
    mended = [element("h3", "Saved failures that do not fail here now"), *_articles(source.mended, names)]
    return joined([*(parts if source.open else []), *(mended if source.mended else [])])


def _articles(failures: Sequence[Shown], names: Mapping[int, str]) -> list[Html]:
    return [article(shown, names[id(shown)]) for shown in failures]


def _index(failures: Sequence[Shown], names: Mapping[int, str]) -> Html | None:
    if len(failures) < 2:
        return None
    items = []
    for shown in failures:
        link = element("a", f"{shown.verdict.kind} ({shown.verdict.check})", href=f"#{names[id(shown)]}")
        items.append(element("li", link, element("span", summary(shown), class_="muted"), state(shown)))
    return element("ol", *items, class_="index")
