"""The command line as a user meets it: exit codes, what is printed, what is saved."""

import json
import subprocess
import sys

import pytest

from harness.cli.main import main

RIGHT = """
import torch
def attention(q, k, v, causal=False):
    return torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=causal, enable_gqa=True).to(q.dtype)
"""
FAULTY = RIGHT.replace("is_causal=causal", "is_causal=False")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "faulty.py").write_text(FAULTY)
    return tmp_path


def fuzz(subject, *more):
    return main(["fuzz", "--subject", subject, "--cases", "120", "--seed", "1", "--device", "cpu", *more])


def test_right_subject_exits_0(capsys, elsewhere):
    assert fuzz("right.py:attention") == 0
    printed = capsys.readouterr().out
    assert "0 failures" in printed
    assert "covered:" in printed
    assert not (elsewhere / "regressions").exists()


def test_faulty_subject_exits_1_and_saves(capsys, elsewhere):
    assert fuzz("faulty.py:attention", "--json", "out.json") == 1
    (saved,) = (elsewhere / "regressions").rglob("*.json")
    printed = capsys.readouterr().out
    for word in (
        "wrong_values",
        "AttentionCase(",
        "where",
        "got",
        "wanted",
        "numpy64",
        "odd one out",
        "1 failure",
        saved.stem,
    ):
        assert word in printed
    (failure,) = json.loads((elsewhere / "out.json").read_text())["failures"]
    assert failure["id"] == saved.stem
    assert failure["shrunk"]["features"] == {"causal": True}


def test_with_a_seed_nothing_of_an_earlier_campaign_is_read(capsys, elsewhere, monkeypatch):
    def read(*arguments):
        raise AssertionError("read")

    for name in ("take_left_behind", "shared_database"):
        monkeypatch.setattr(f"harness.cli.fuzz.{name}", read)
    assert main(["fuzz", "--subject", "right.py:attention", "--cases", "5", "--device", "cpu", "--seed", "7"]) == 0
    with pytest.raises(AssertionError, match="read"):
        main(["fuzz", "--subject", "right.py:attention", "--cases", "5", "--device", "cpu"])


def test_every_cause_has_a_line_and_its_place(capsys, elsewhere):
    (elsewhere / "raises.py").write_text("def attention(q, k, v):\n    assert q.dim() == 3\n    return q\n")
    assert fuzz("raises.py:attention", "-x", "--json", "out.json") == 1
    (failure,) = json.loads((elsewhere / "out.json").read_text())["failures"]
    assert "(raises.py:2 in attention: assert q.dim() == 3)" in failure["verdict"]["sentence"]
    assert (failure["cut_short"], failure["needs"]) == (False, [])
    printed = capsys.readouterr().out
    assert failure["verdict"]["sentence"] in printed
    assert f"raised (returns): {failure['cause']}" in printed


def test_replay_distinguishes_fixed_from_failed(capsys, elsewhere):
    fuzz("faulty.py:attention")
    assert main(["replay"]) == 1
    assert main(["replay", "--subject", "right.py:attention"]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "FIXED" in printed


def test_replay_of_one_id_prints_the_whole_story(capsys, elsewhere):
    fuzz("faulty.py:attention")
    (saved,) = (elsewhere / "regressions").rglob("*.json")
    capsys.readouterr()
    assert main(["replay", saved.stem]) == 1
    assert "oracles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fuzz", "--subject", "nothing"], "A subject is package.module:function"),
        (["fuzz", "--subject", "missing.py:f"], "missing.py does not exist"),
        (["fuzz", "--device", "cuda"], "no CUDA device"),
        (["replay", "0123456789ab"], "0123456789ab"),
    ],
)
def test_what_cannot_run_exits_2_in_one_line(arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_the_pipe_gets_no_control_characters(elsewhere):
    command = [sys.executable, "-m", "harness.cli", "fuzz", "--subject", "right.py:attention", "--cases", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("code", ["", "0", "'no GPU here'"])
def test_a_subject_that_exits_where_it_is_imported_cannot_be_imported(code, capsys, elsewhere):
    (elsewhere / "exits.py").write_text(f"import sys\nsys.exit({code})\n")
    for subject in ("exits.py:attention", "exits:attention"):
        assert fuzz(subject) == 2
        assert f"cannot be imported: it calls exit({code}) in exits.py, line 2." in capsys.readouterr().err
