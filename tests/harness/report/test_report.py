"""The page shows what it was given, needs no other file, and lets no text of a case or subject become HTML."""

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest

from harness.cli.main import main
from harness.corpus import entries
from harness.corpus.entries import Worst
from harness.judging.heat import HeatMap
from harness.judging.verdict import Verdict
from harness.report.again import Picture
from harness.report.model import ReportedFailure, Source
from harness.report.page import breakable, page
from strategies import AttentionCase, Features, Geometry
from tests.harness.entries import FAULTY_TOY, TOY, entry_for

STYLE = (files("harness.report") / "templates" / "style.css").read_text()
DECLARES = "attention.__flashattest__ = {'gqa': False}\n"
EVIL = "<script>alert('x')</script>\"&{{ 7 * 7 }}"
CASE = AttentionCase(Geometry(Nq=4, Nk=4, d=2), features=Features(causal=True))
WRONG = Verdict("wrong_values", "values", "O[0, 0, 1, 0] is 1 and should be 0.", 8.0, "O", (0, 0, 1, 0))
MAP = HeatMap("O", 0, 0, (4, 2), (2, 1), ((0.5, 8.0), (0.1, float("inf"))))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(TOY + DECLARES)
    (tmp_path / "bad.py").write_text(FAULTY_TOY + DECLARES)
    return tmp_path


def shown(**others):
    pictures = {"smallest": Picture(MAP, CASE)}
    given = {"subject": "bad.py:f", "device": "cpu", "case": CASE, "verdict": WRONG, "worst": Worst(9.0, CASE)}
    return ReportedFailure(**(given | {"pictures": pictures, "file": "regressions/a b.json"} | others))


def html_of(*failures, **others):
    return page([Source("regressions", failures, **others)])


def text_of(html):
    """What a reader sees: tags gone, entities as the characters that they stand for."""
    reader = HTMLParser(convert_charrefs=True)
    text = []
    reader.handle_data = text.append
    reader.feed(html.partition("</style>")[2].replace("<wbr>", ""))
    return " ".join(" ".join(text).split())


def report(*sources):
    code = main(["report", *sources, "--output", "page.html"])
    with open("page.html", encoding="utf-8") as file:
        return code, file.read()


def test_a_failure_reads_as_in_the_terminal():
    text = text_of(html_of(shown(met=(26, 2.73), versions={"torch": "2.0"})))
    for part in (
        WRONG.sentence,
        "check values",
        repr(CASE),
        "x the budget of",
        "worst 9 x the budget",
        "after 26 cases",
    ):
        assert part in text
    assert "flashattest replay 'regressions/a b.json'" in text
    assert "on cpu with torch 2.0" in text


def test_a_heat_map_is_drawn_and_described_in_words():
    html = html_of(shown())
    assert len(re.findall("<figure", html)) == 1
    assert 'role="img" aria-label="Heat map of error/budget. The smallest case. O of batch entry 0, head 0' in html
    assert "2 of 4 cells are over budget, in rows 0 to 3 and column 1; the largest error/budget is inf." in html


def test_without_a_map_a_sentence_says_why():
    html = html_of(shown(pictures={"smallest": Picture(sentence="There is no CUDA device here.")}))
    assert "<figure" not in html
    assert "No heat map: There is no CUDA device here." in text_of(html)


@pytest.mark.parametrize(
    "failure",
    [
        shown(subject=EVIL),
        shown(file=EVIL, versions={EVIL: EVIL}),
        shown(verdict=Verdict("raised", EVIL, EVIL, votes={EVIL: EVIL}, parts={EVIL: 1.0})),
        shown(case=CASE.replace(features=Features(config=EVIL))),
        shown(pictures={"smallest": Picture(sentence=EVIL)}),
    ],
    ids=["subject", "file", "verdict", "config", "sentence"],
)
def test_no_text_becomes_html(failure):
    html = html_of(failure, unread=(EVIL,))
    assert "<script" not in html
    assert "<script>alert(" in text_of(html)


def test_no_text_leaves_its_attribute():
    case = CASE.replace(features=Features(config="' onload='x' \" onload=\"x\""))
    names = []
    reader = HTMLParser()
    reader.handle_starttag = lambda _, attributes: names.extend(name for name, _ in attributes)
    reader.feed(html_of(shown(case=case, pictures={"smallest": Picture(MAP, case)})))
    assert "data-case" in names
    assert "onload" not in names


def test_names_in_a_campaigns_json_are_text_too(project):
    data = fuzz("bad.py:attention", "120")
    data["coverage"][EVIL], data["never_hit"][EVIL], data["refusals"][EVIL] = {EVIL: 1}, [EVIL], 1
    data["distribution"][EVIL] = {EVIL: {"0": 1, EVIL: 2}}
    (project / "out.json").write_text(json.dumps(data))
    code, html = report("out.json")
    assert (code, "<script" in html) == (0, False)
    assert EVIL in text_of(html)


def test_nothing_is_loaded_and_no_script_runs():
    html = html_of(shown())
    assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|\ssrc=|url\((?!#)", html)
    assert not re.search(r'href="(?!#)', html)


def test_the_page_is_nested_as_html_wants_it():
    open_tags = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, _: open_tags.append(tag) if tag not in ("meta", "wbr") else None
    reader.handle_endtag = lambda tag: pytest.fail(tag) if open_tags.pop() != tag else None
    reader.feed(html_of(shown(), shown(fails=False)))
    assert open_tags == []


def test_text_that_may_break_is_escaped_and_breaks_at_signs():
    assert breakable("f(a_b=1.5)<i>") == "f(<wbr>a_<wbr>b=1.5)&lt;i&gt;"


def test_headings_leave_no_level_out():
    levels = [int(level) for level in re.findall(r"<h(\d)", html_of(shown(), shown(fails=False)))]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_link_leads_somewhere():
    html = html_of(shown(), shown(device="cuda"))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r' id="([^"]+)"', html))


@pytest.mark.parametrize("theme", STYLE.split("@media (prefers-color-scheme: dark)")[:2], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["text", "muted", "link", "bad", "good"])
def test_text_stands_out(theme, name):
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
    for ground in ("page", "surface", "sunk"):
        lighter, darker = sorted((_luminance(colours[name]), _luminance(colours[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_an_empty_corpus_has_a_page(project):
    (project / "regressions").mkdir()
    code, html = report()
    assert code == 0
    assert "0 failures." in text_of(html)


def test_saved_failures_are_run_again_and_those_that_pass_are_folded(project, capsys):
    for subject in ("bad.py:attention", "toy.py:attention"):
        entries.save(entry_for(subject), project / "regressions")
    _, html = report()
    assert "1 failure, 1 more that does not fail here now" in capsys.readouterr().out
    assert (html.count("<details open"), html.count("<details>"), html.count("<figure")) == (1, 1, 1)
    assert "The smallest case made larger" in html


def test_a_file_that_is_no_failure_is_named_on_the_page(project):
    entries.save(entry_for("toy.py:attention"), project / "regressions")
    (project / "regressions" / "toy.attention" / "x.json").write_text("{}")
    assert "x.json is not a saved failure" in text_of(report()[1])


def fuzz(subject, cases):
    main(["fuzz", "--subject", subject, "--cases", cases, "--seed", "1", "--device", "cpu", "--json", "out.json"])
    with open("out.json") as file:
        return json.load(file)


def test_a_campaign_shows_its_spread_coverage_and_failures():
    data = fuzz("bad.py:attention", "120")
    (failure,) = data["failures"]
    assert (data["format"], failure["verdict"]["kind"]) == (1, "wrong_values")
    assert HeatMap.from_json(failure["larger"]["map"]).over
    code, html = report("out.json")
    text = text_of(html)
    assert code == 0
    for part in (
        "1 failure.",
        "Campaign: bad.py:attention on cpu",
        "cases/s",
        "Error/budget",
        "upper-left",
        "Coverage",
    ):
        assert part in text


def test_a_campaign_of_an_earlier_version_says_nothing_of_gradients(project):
    data = fuzz("toy.py:attention", "40")
    assert "worst of gradients" in text_of(report("out.json")[1])
    (project / "old.json").write_text(
        json.dumps({k: v for k, v in data.items() if k not in ("gradients", "operation")})
    )
    assert "worst of gradients" not in text_of(report("old.json")[1])


def test_a_campaign_whose_cases_were_all_refused_has_a_page(project):
    nothing = {"worst": {}, "gradients": {"worst": {}}, "distribution": {}, "coverage": {}, "cases": 0}
    data = fuzz("toy.py:attention", "5") | nothing | {"refused": 5, "refusals": {EVIL: 5}}
    (project / "out.json").write_text(json.dumps(data))
    text = text_of(report("out.json")[1])
    assert "Why 5 cases were refused" in text
    assert f"5 times: {EVIL}" in text


def test_a_clean_campaign_says_so():
    fuzz("toy.py:attention", "20")
    text = text_of(report("out.json")[1])
    assert "There are none." in text
    assert "0 failures." in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "neither a file nor the id"),
        ("[1]", "must be a JSON object"),
        ("{", "neither a campaign's JSON nor a saved failure"),
        ('{"subject": "x"}', "It has the format None"),
        ('{"format": 1}', "must have the field 'subject'"),
        ('{"flashattest": 1}', "is not a saved failure"),
    ],
)
def test_what_is_no_source_exits_2_in_one_line(content, sentence, project, capsys):
    if content is not None:
        (project / "out.json").write_text(content)
    assert main(["report", "out.json"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (project / "report.html").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("failures", [1]), ("failures", [{}]), ("seed", "0"), ("coverage", {"d": {"1": -1}}), ("cases", None)],
)
def test_a_damaged_campaign_exits_2_in_one_line(key, value, project, capsys):
    data = fuzz("toy.py:attention", "5")
    (project / "out.json").write_text(json.dumps(data | {key: value}))
    capsys.readouterr()
    assert main(["report", "out.json"]) == 2
    assert capsys.readouterr().err.startswith("flashattest: out.json is not the JSON of a campaign: ")


def test_no_corpus_and_no_place_for_the_page_exit_2(project, capsys):
    assert main(["report"]) == 2
    (project / "regressions").mkdir()
    assert main(["report", "--output", "missing/page.html"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "There is no corpus regressions here" in first
    assert "cannot be written as missing/page.html" in second
