"""What a file of results says about where it is from."""

import sys

from speed import machine


def test_the_commit_and_the_command_are_told(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(machine.ROOT / "benchmark" / "x.py"), "--d", "64 128"])
    told = machine.describe("cpu")
    assert told["command"] == "python benchmark/x.py --d '64 128'"
    assert {"device", "torch", "triton", "cuda", "cudnn", "driver", "python", "commit", "date"} <= set(told)


def test_outside_a_checkout_the_commit_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.describe("cpu")["commit"] == "unknown"
    monkeypatch.setenv("FLASHATTEST_COMMIT", "0123456789ab")
    assert machine.describe("cpu")["commit"] == "0123456789ab"
