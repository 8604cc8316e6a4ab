"""What each part of the harness is worth: recall with the part left out, and the false alarms that it then raises.

    python benchmark/measure_recall.py --where torch --time 10 --json ablation.json --markdown ablation.md

With --each-check, every check that was the first to see some fault is left out in turn, for those faults alone: a
fault that is then missed is one that no other check sees.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from harness.recall.ablation import ABLATIONS, WITHOUT
from harness.recall.hunt import HuntLimits
from harness.recall.outcome import Recall, shares, to_json
from harness.recall.run import RecallPlan, choose_faults, recall
from harness.recall.show import lines, print_summary
from harness.running.devices import choose, prepare

SHRINK_SECONDS = 0.5
"""How small a case becomes is of no interest here."""


def main() -> int:
    asked = arguments()
    device = choose(asked.device)
    prepare(device)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    ids = choose_faults(asked.faults, asked.where)
    plan = RecallPlan(HuntLimits(device, asked.seed, asked.time, shrink=SHRINK_SECONDS), jobs=asked.jobs)
    outcomes = {}
    for name in asked.parts:
        outcomes[name] = measure(console, ids, replace(plan, ablation=name))
        write(asked, outcomes)
    if asked.each_check:
        for name, of_check in first_seen(outcomes["whole"]).items():
            outcomes[WITHOUT + name] = measure(console, of_check, replace(plan, ablation=WITHOUT + name))
            write(asked, outcomes)
    console.print(to_markdown(outcomes), markup=False, soft_wrap=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(ABLATIONS), choices=ABLATIONS)
    parser.add_argument("--each-check", action="store_true")
    parser.add_argument("--where", choices=("torch", "kernel"))
    parser.add_argument("--faults", nargs="+", default=[], metavar="ID")
    parser.add_argument("--time", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    if asked.each_check and "whole" not in asked.parts:
        parser.error("--each-check needs the part 'whole', to know which check saw what")
    return asked


def measure(console: Console, ids: list[str], plan: RecallPlan) -> Recall:
    console.print(f"\n{plan.ablation}", style="bold")
    with lines(console, len(ids)) as show:
        outcome = recall(ids, plan, show)
    print_summary(console, outcome)
    return outcome


def first_seen(whole: Recall) -> dict[str, list[str]]:
    """The faults that each check was the first to see."""
    seen: dict[str, list[str]] = {}
    for fault in whole.found:
        seen.setdefault(whole.detections(fault)[0].check, []).append(fault.id)
    return seen


def write(asked: argparse.Namespace, outcomes: dict[str, Recall]) -> None:
    if asked.json is not None:
        asked.json.write_text(json.dumps({name: to_json(outcome) for name, outcome in outcomes.items()}, indent=2))
    if asked.markdown is not None:
        asked.markdown.write_text(to_markdown(outcomes))


def to_markdown(outcomes: dict[str, Recall]) -> str:
    head = "| harness | found | seconds: median, most | false alarms on controls | lost |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | --- |", *(row(*each) for each in outcomes.items())]) + "\n"


def row(name: str, outcome: Recall) -> str:
    spread = "; ".join(
        f"{where} {share.seconds[0]:.2f}, {share.seconds[1]:.2f}"
        for where, share in shares(outcome, "where").items()
        if share.seconds is not None
    )
    alarms = f"{len(outcome.alarms)} of {len(outcome.controls)}"
    lost = ", ".join(fault.id for fault in outcome.missed)
    return f"| {name} | {len(outcome.found)} of {len(outcome.faults)} | {spread} | {alarms} | {lost} |"


if __name__ == "__main__":
    sys.exit(main())
