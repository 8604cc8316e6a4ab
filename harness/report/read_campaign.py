"""Read a campaign's JSON for a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.corpus.entries import Worst, verdict_from_json
from harness.errors import CannotRun
from harness.io.reading import Read, an_object, count, fields, mapping, maybe, number, several, text, whole
from harness.judging.heat import HeatMap
from harness.report.again import Picture
from harness.report.campaign_json import CAMPAIGN_FORMAT
from harness.report.model import CampaignNumbers, ReportedFailure, Source
from strategies import AttentionCase
from strategies.spec import require

MAX_BYTES = 1 << 26


def parsed(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises CannotRun, in one sentence, for anything else."""
    try:
        require(path.stat().st_size <= MAX_BYTES, f"It is larger than {MAX_BYTES} bytes.")
        return an_object("A campaign's JSON", json.loads(path.read_text()))
    except OSError as error:
        raise CannotRun(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CannotRun(f"{path} is neither a campaign's JSON nor a saved failure: {str(error)[:200]}") from error


def of_campaign(path: Path, data: dict[str, Any]) -> Source:
    """Read what `flashattest fuzz --json` wrote. Raises CannotRun, in one sentence, for anything else."""
    try:
        found = data.get("format")
        sentence = f"It has the format {found!r}, and this version of Flashattest reads {CAMPAIGN_FORMAT}."
        require(found == CAMPAIGN_FORMAT, sentence)
        campaign = CampaignNumbers(**fields("A campaign's JSON", data, _CAMPAIGN, {"gradients"}, dropped=data))
        failures = an_object("A campaign's JSON", data).get("failures")
        return Source(str(path), tuple(_failure(campaign, each) for each in several(dict)(failures)), campaign)
    except (ValueError, TypeError, OverflowError) as error:
        raise CannotRun(f"{path} is not the JSON of a campaign: {str(error)[:300]}") from error


_CAMPAIGN: dict[str, Read] = {
    "subject": text,
    "device": text,
    "seed": whole,
    "cases": count,
    "refused": count,
    "seconds": number,
    "cases_per_second": number,
    "worst": mapping(number),
    "coverage": mapping(mapping(count)),
    "never_hit": mapping(several(text)),
    "distribution": mapping(mapping(mapping(count))),
    "refusals": mapping(count),
    "versions": mapping(text),
    "gradients": lambda data: fields(
        "gradients", data, {"worst": mapping(number)}, (), dropped=an_object("gradients", data)
    )["worst"],
}


def _failure(campaign: CampaignNumbers, data: object) -> ReportedFailure:
    given = an_object("A failure", data)
    read = fields("A failure", given, _FAILURE, (), dropped=given)
    worst, larger = read["worst"], read["larger"]
    drawn = {"smallest": Picture(read["map"], read["shrunk"], read["no_map"] or "")}
    drawn["worst"] = Picture(worst["map"], worst["case"], worst["no_map"] or "")
    if larger is not None:
        drawn["larger"] = Picture(larger["map"], larger["case"])
    return ReportedFailure(
        campaign.subject,
        campaign.device,
        read["shrunk"],
        read["verdict"],
        Worst(worst["ratio"], worst["case"]),
        drawn,
        read["corpus_file"],
        (read["cases_to_first"], read["seconds_to_first"]),
    )


def _part(readers: dict[str, Read]) -> Read:
    return lambda data: fields("A part of a failure", data, readers, (), dropped=an_object("A part", data))


_MAP: dict[str, Read] = {"map": maybe(HeatMap.from_json), "no_map": maybe(text)}
_LARGER: dict[str, Read] = {"case": AttentionCase.from_json, "map": HeatMap.from_json}
_FAILURE: dict[str, Read] = _MAP | {
    "shrunk": AttentionCase.from_json,
    "verdict": verdict_from_json,
    "worst": _part(_MAP | {"ratio": number, "case": AttentionCase.from_json}),
    "larger": maybe(_part(_LARGER)),
    "corpus_file": maybe(text),
    "cases_to_first": count,
    "seconds_to_first": number,
}
