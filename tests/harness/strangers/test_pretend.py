"""What a subject's host code asks of a CUDA device is answered on a CPU, while it is imported or runs."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET=1 turns it on", allow_module_level=True)

import triton

from harness.cli.main import main
from harness.corpus import entries
from harness.errors import CannotRun
from harness.judging.attest import attest
from harness.running.devices import choose
from harness.subject.loading import load
from harness.subject.pretend import VARIABLE, pretended_cuda
from strategies import AttentionCase, Geometry
from tests.harness.entries import entry_for

NAME = "tests.harness.strangers.cuda_host"
ASKS = """
import torch
torch.cuda.get_device_capability()

def attention(q, k, v, causal=False):
    assert q.is_cuda
    return torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=causal, enable_gqa=True).to(q.dtype)
"""
TEST_ASKS = """
import torch
from harness.judging.attest import attest
from strategies import AttentionCase
from asks import attention

def test_attention():
    attest(attention, AttentionCase())
    assert not torch.cuda.is_available()
"""
SMALL = Geometry(Nq=3, Nk=18, d=4)


@pytest.fixture
def sm_90(monkeypatch):
    monkeypatch.setenv(VARIABLE, "sm_90")


def test_a_subject_that_asks_for_cuda_is_attested(sm_90):
    subject = load(f"{NAME}:attention")
    attest(subject, AttentionCase(SMALL))
    attest(subject, AttentionCase(SMALL, operation="forward_backward"))


def test_the_harness_is_not_fooled(sm_90):
    tensor, stock = torch.zeros(1), torch.library.Library.impl
    with pretended_cuda():
        assert torch.cuda.is_available()
        assert tensor.is_cuda
        assert tensor.to("cuda").device == torch.device("cuda:0")
    assert not torch.cuda.is_available()
    assert not tensor.is_cuda
    assert torch.library.Library.impl is stock
    with pytest.raises(RuntimeError):
        triton.runtime.driver.active.get_current_target()


def test_without_it_nothing_is_answered():
    with pretended_cuda():
        assert not torch.cuda.is_available()


def test_what_is_not_answered_is_named(sm_90):
    with pytest.raises(CannotRun, match=r"memorySnapshot.*, which --pretend-cuda does not answer"):
        attest(load(f"{NAME}:asks_more"), AttentionCase(SMALL))
    with pretended_cuda(), pytest.raises(CannotRun, match=r"driver\.active\.get_benchmarker"):
        triton.runtime.driver.active.get_benchmarker()


def test_pytest_pretends_where_test_modules_are_imported_and_failures_replayed(pytester, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")  # what the option sets is taken back
    pytester.makepyfile(asks=ASKS, test_asks=TEST_ASKS)
    entries.save(entry_for("asks.py:attention"), pytester.path / "regressions")
    pytester.runpytest_subprocess().assert_outcomes(errors=1)
    pytester.runpytest("--pretend-cuda", "sm_80").assert_outcomes(passed=2)
    pytester.runpytest("--pretend-cuda", "hopper").stderr.fnmatch_lines(["*is one of sm_70*"])


def test_each_architecture_says_what_it_is(monkeypatch):
    for name, capability in {"sm_75": (7, 5), "sm_80": (8, 0), "sm_120": (12, 0)}.items():
        monkeypatch.setenv(VARIABLE, name)
        with pretended_cuda():
            assert torch.cuda.get_device_capability() == capability
            assert torch.cuda.get_device_properties(0).major == capability[0]


def test_it_is_for_a_cpu_and_for_known_architectures(monkeypatch, sm_90, capsys):
    assert choose() == "cpu"
    with pytest.raises(CannotRun, match="--device cpu"):
        choose("cuda")
    monkeypatch.setenv(VARIABLE, "hopper")
    assert main(["fuzz", "--subject", "sdpa", "--cases", "1"]) == 2
    assert "is one of sm_70" in capsys.readouterr().err


def test_the_command_line_pretends_in_its_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "")  # what the command line sets is taken back
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.py").write_text(ASKS)
    asked = ["fuzz", "--subject", "asks.py:attention", "--cases", "12", "--seed", "1", "--jobs", "2"]
    assert main([*asked, "--device", "cpu"]) == 2
    assert "On a CPU, --pretend-cuda sm_90 answers for a GPU." in capsys.readouterr().err
    assert main([*asked, "--pretend-cuda", "sm_90"]) == 0
    assert "0 failures" in capsys.readouterr().out
