"""The subcommand `recall`, from its arguments to its exit code."""

from __future__ import annotations

import json
from argparse import Namespace

import torch
from rich.console import Console

from harness.recall.hunt import HuntLimits
from harness.recall.outcome import to_json
from harness.recall.run import RecallPlan, choose_faults, recall
from harness.recall.show import lines, print_summary
from harness.recall.table import to_markdown
from harness.running.devices import choose, prepare


def run(asked: Namespace, console: Console) -> int:
    """Run a recall; 0: every fault was found and no control drew an alarm, else 1."""
    device = choose(asked.device)
    prepare(device)
    torch.set_num_threads(1)
    ids = choose_faults(asked.faults, asked.where, asked.operation)
    plan = RecallPlan(HuntLimits(device, asked.seed, asked.time), baselines=asked.baselines, jobs=asked.jobs)
    with lines(console, len(ids)) as show:
        outcome = recall(ids, plan, show)
    print_summary(console, outcome)
    if asked.json is not None:
        asked.json.write_text(json.dumps(to_json(outcome), indent=2) + "\n")
    if asked.markdown is not None:
        asked.markdown.write_text(to_markdown(outcome))
    return 0 if outcome.is_perfect else 1
