"""The outcome of a recall: what was planted and what was found, as data and as JSON.

A fault that is planted twice, in our kernel and as a torch function, is two plants and one fault. Everything here
counts plants, unless it says "distinct".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from harness.recall.faults import CONTROLS, EQUIVALENTS, FAULTS, Fault
from harness.recall.hunt import Seen
from harness.recall.trial import TrialResult


@dataclass(frozen=True)
class Recall:
    """The result of each fault and control, by id. not_run: ids of those that were asked for and not run, and why."""

    seed: int
    device: str
    seconds: float
    ablation: str = "whole"
    results: dict[str, TrialResult] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> list[Fault]:
        """The plants that were run."""
        return [fault for id, fault in FAULTS.items() if id in self.results]

    @property
    def controls(self) -> list[str]:
        """Ids of the controls that were run."""
        return [id for id in CONTROLS if id in self.results]

    def detections(self, fault: Fault) -> tuple[Seen, ...]:
        """Failures of the kinds by which the fault is known, the earliest first."""
        return self.results[fault.id].hunt.of(fault.expects)

    @property
    def found(self) -> list[Fault]:
        """The plants that showed a failure of a kind that they are known by."""
        return [fault for fault in self.faults if self.detections(fault)]

    @property
    def missed(self) -> list[Fault]:
        """The other plants."""
        return [fault for fault in self.faults if not self.detections(fault)]

    @property
    def distinct(self) -> list[str]:
        """The distinct faults that were run."""
        return list(dict.fromkeys(fault.distinct for fault in self.faults))

    def distinct_of(self, found: Iterable[Fault]) -> list[str]:
        """The distinct faults of which every plant that was run is among these."""
        ids = {fault.id for fault in found}
        lost = {fault.distinct for fault in self.faults if fault.id not in ids}
        return [id for id in self.distinct if id not in lost]

    @property
    def alarms(self) -> dict[str, Seen]:
        """The first failure seen on each control that drew one."""
        return {id: self.results[id].hunt.seen[0] for id in self.controls if self.results[id].hunt.seen}

    @property
    def is_perfect(self) -> bool:
        """Whether every fault was found, and no control drew an alarm."""
        return not self.missed and not self.alarms and "interrupted" not in self.not_run.values()

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines that were run."""
        return list(dict.fromkeys(name for each in self.results.values() for name in each.baselines))

    def fired(self, baseline: str, ids: Iterable[str]) -> list[str]:
        """The planted functions, of these, that a baseline fails."""
        return [id for id in ids if self.results[id].baselines[baseline].fired]

    def found_by(self, baseline: str) -> list[Fault]:
        """The plants that a baseline fails."""
        return [fault for fault in self.faults if self.fired(baseline, [fault.id])]

    def first_checks(self) -> Counter[str]:
        """How many faults each check was the first to see."""
        return Counter(self.detections(fault)[0].check for fault in self.found)


@dataclass(frozen=True)
class Share:
    """How many of some faults were found, and the cases and seconds that the first failure took."""

    found: int
    total: int
    cases: tuple[float, int] | None
    seconds: tuple[float, float] | None
    slowest: str | None

    @classmethod
    def of(cls, recall: Recall, faults: Iterable[Fault]) -> Share:
        """The share of these faults; medians and maxima are of those found, None where none is."""
        asked = list(faults)
        hunts = {fault.id: recall.results[fault.id].hunt for fault in asked if recall.detections(fault)}
        if not hunts:
            return cls(0, len(asked), None, None, None)
        cases, seconds = ([getattr(hunt, name) for hunt in hunts.values()] for name in ("cases", "seconds"))
        slowest = max(hunts, key=lambda id: hunts[id].seconds)
        return cls(len(hunts), len(asked), (median(cases), max(cases)), (median(seconds), max(seconds)), slowest)


def shares(recall: Recall, by: str) -> dict[str, Share]:
    """The share of each class of faults: `by` is "where" or "group"."""
    classes = sorted({getattr(fault, by) for fault in recall.faults})
    return {name: Share.of(recall, (f for f in recall.faults if getattr(f, by) == name)) for name in classes}


def to_json(recall: Recall) -> dict[str, Any]:
    """What `--json` holds."""
    return {
        "seed": recall.seed,
        "device": recall.device,
        "seconds": recall.seconds,
        "ablation": recall.ablation,
        "found": len(recall.found),
        "total": len(recall.faults),
        "distinct_found": len(recall.distinct_of(recall.found)),
        "distinct_total": len(recall.distinct),
        "missed": [fault.id for fault in recall.missed],
        "false_alarms": list(recall.alarms),
        "faults": [_fault(recall, fault) for fault in recall.faults],
        "controls": [_control(recall, id) for id in recall.controls],
        "not_run": recall.not_run,
        "equivalents": {id: each.proof for id, each in EQUIVALENTS.items()},
        "first_checks": dict(recall.first_checks().most_common()),
    }


def _fault(recall: Recall, fault: Fault) -> dict[str, Any]:
    described = {name: getattr(fault, name) for name in ("id", "group", "where", "what", "source", "twin")}
    detections = [_seen(each) for each in recall.detections(fault)]
    others = [_seen(each) for each in recall.results[fault.id].hunt.seen if each.kind not in fault.expects]
    measures = _measures(recall, fault.id)
    return {**described, "found": bool(detections), **measures, "detections": detections, "other_failures": others}


def _control(recall: Recall, id: str) -> dict[str, Any]:
    alarms = [_seen(each) for each in recall.results[id].hunt.seen]
    return {"id": id, **_measures(recall, id), "alarms": alarms}


def _measures(recall: Recall, id: str) -> dict[str, Any]:
    result = recall.results[id]
    fired: Mapping[str, Any] = {
        name: {"fired": each.fired, "seconds": round(each.seconds, 3)} for name, each in result.baselines.items()
    }
    return {"cases": result.hunt.cases, "seconds": round(result.hunt.seconds, 3), "baselines": fired}


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "kind": seen.kind,
        "check": seen.check,
        "sentence": seen.sentence,
        "cases": seen.cases,
        "seconds": round(seen.seconds, 3),
        "case": seen.first.to_json(),
        "shrunk": seen.shrunk.to_json(),
    }


def size(seen: Collection[Seen]) -> str:
    """The sizes of the smallest shrunk case, ones of B and H left out: "B2 H4/2 3x5 d16" has 3 queries, 5 keys."""
    g = min((each.shrunk.geometry for each in seen), key=lambda g: g.B * (g.Hq * g.Nq + g.Hk * g.Nk) * g.d)
    batch = [f"B{g.B}"] if g.B > 1 else []
    heads = [f"H{g.Hq}/{g.Hk}"] if g.Hq > g.Hk else [f"H{g.Hq}"] if g.Hq > 1 else []
    return " ".join([*batch, *heads, f"{g.Nq}x{g.Nk}", f"d{g.d}"])
