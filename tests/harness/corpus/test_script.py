"""A failure as a script of its own: it raises on a faulty subject, is silent on a right one, and stands alone."""

import ast
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given

from harness.cli.main import main
from harness.corpus import entries
from harness.corpus.script import parts, subject, write
from harness.errors import CannotRun
from harness.judging.verdict import Verdict
from harness.subject.shipped import shipped
from oracles import float64, gradients64
from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build
from tests.harness.entries import entry_for

TOYS = (
    (Path(__file__).parents[1] / "toys.py").read_text()
    + """
calls = 0
kept = {}


def flickers(q, k, v):
    global calls
    calls += 1
    return right(q, k, v) * (calls % 7 != 0)


def keeps_the_first_answer(q, k, v):
    return kept.setdefault(q.shape, right(q, k, v))


def keeps_its_output(q, k, v):
    return kept.setdefault(q.shape, torch.empty_like(q)).copy_(right(q, k, v))


def keeps_its_gradient(q, k, v):
    buffer = kept.setdefault(k.shape, torch.empty_like(k))
    return right(q, passed(k, buffer.copy_), v)


def no_single_key(q, k, v):
    return right(q, k, v) * (k.shape[2] > 1)
"""
)
OURS = dict.fromkeys(("harness", "strategies", "oracles", "kernel", "hypothesis"))
"""As entries of `sys.modules`, None makes of their import an ImportError."""
WITHOUT_US = f"import runpy, sys; sys.modules.update({OURS}); runpy.run_path('bug.py', run_name='__main__')"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "toys.py").write_text(TOYS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(text):
    """Run a script in a process where nothing of ours can be imported."""
    Path("bug.py").write_text(text)
    return subprocess.run([sys.executable, "-c", WITHOUT_US], capture_output=True, text=True)


def run_here(text):
    """Run a script in this process, which is faster; return what it raised, as text."""
    Path("bug.py").write_text(text)
    ours = {name: sys.modules[name] for name in OURS if name in sys.modules}
    sys.modules.update(OURS)
    try:
        with mock.patch.object(sys, "path", [*sys.path]):
            runpy.run_path("bug.py", run_name="__main__")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for name in (*OURS, "toys"):
            sys.modules.pop(name, None)
        sys.modules.update(ours)
        torch.use_deterministic_algorithms(False)
    return ""


def on(other, text):
    """The script with another subject."""
    return re.sub(r"import \w+ as subject", f"import {other} as subject", text)


def script(toy, case, kind="wrong_values", check="values", sentence="It was wrong."):
    entry = entry_for(f"toys.py:{toy}", case, kind, check)
    return write(replace(entry, verdict=Verdict(kind, check, sentence)))


LONG = AttentionCase(Geometry(Nk=65))
EMPTY = AttentionCase(Geometry(B=2, Nk=3), features=Features(seqlens_k=(0, 2)), past_end="nan")
BACKWARD = AttentionCase(Geometry(B=2, Nk=3, d=2), operation="forward_backward")
OF_LSE = BACKWARD.replace(features=Features(return_lse=True), dLSE=TensorSpec(layout="expanded_all"))
FAULTS = [
    ("ignores_causal", AttentionCase(Geometry(Nk=2), features=Features(causal=True)), "wrong_values", "values"),
    ("nan_on_empty_rows", EMPTY, "not_finite", "values"),
    ("lse_in_base_2", AttentionCase(features=Features(return_lse=True)), "wrong_lse", "lse"),
    ("returns_fp32", AttentionCase(dtype="bf16"), "wrong_shape_or_dtype", "form"),
    ("returns_extra_row", AttentionCase(), "wrong_shape_or_dtype", "form"),
    ("scales_in_place", AttentionCase(), "input_mutated", "inputs_unchanged"),
    ("leaves_last_row", AttentionCase(Geometry(Nq=2)), "not_finite", "values"),
    ("flickers", LONG, "not_repeatable", "values"),
    ("keeps_the_first_answer", AttentionCase(history=("other_values",)), "history_dependent", "values"),
    ("keeps_its_output", AttentionCase(), "output_aliased", "first_output_kept"),
    ("no_single_key", AttentionCase(), "wrong_values", "single_key"),
    ("doubles_dk", BACKWARD, "wrong_gradient", "gradient_of_k"),
    ("doubles_dk", BACKWARD.replace(needs_grad=("k",), history=("other_values",)), "wrong_gradient", "gradient_of_k"),
    ("doubles_dk", BACKWARD, "wrong_gradient", "alone_as_in_batch"),
    ("ignores_dlse", OF_LSE, "wrong_gradient", "gradient_of_q"),
    ("drops_dq", BACKWARD, "wrong_gradient", "gradient_form"),
    ("drops_the_graph", BACKWARD, "wrong_gradient", "gradient_form"),
    ("writes_to_dO", BACKWARD, "input_mutated", "inputs_unchanged"),
    ("keeps_its_gradient", BACKWARD, "output_aliased", "first_output_kept"),
]


@pytest.mark.parametrize(("toy", "case", "kind", "check"), FAULTS, ids=lambda each: str(each)[:30])
def test_a_script_shows_the_fault_and_is_silent_without_it(toy, case, kind, check):
    text = script(toy, case, kind, check)
    assert re.fullmatch(r"AssertionError: .+\.", run_here(text))
    assert run_here(on("right", text)) == ""


def test_a_script_runs_without_us():
    text = script(*FAULTS[0])
    faulty, right = run(text), run(on("right", text))
    assert (faulty.returncode, faulty.stdout) == (1, "")
    assert re.search(r"^AssertionError: O.+\.$", faulty.stderr, re.MULTILINE)
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")


def test_the_worst_element_is_told_with_what_came_and_what_is_right():
    said = run_here(script(*FAULTS[0]))
    assert re.fullmatch(
        r"AssertionError: O\[0, 0, 0, 0\]: got \S+, wanted \S+, off by \S+ where \S+ is allowed\.", said
    )


def test_what_raises_raises():
    text = script("raises_on_long_keys", LONG, "raised", "returns")
    assert run_here(text) == "RuntimeError: too many keys"
    assert run_here(on("right", text)) == ""


def test_what_lies_beside_the_inputs_is_watched():
    text = script("writes_past_q", AttentionCase(), "out_of_bounds", "surroundings_unchanged", "outside its input q.")
    assert "wrote to the memory of its inputs" in run_here(text)
    assert run_here(on("right", text)) == ""


def test_what_a_script_cannot_show_is_one_sentence():
    with pytest.raises(CannotRun, match="script cannot see writes outside"):
        script("right", LONG, "out_of_bounds", "surroundings_unchanged", "outside the fp32 tensor that it made.")
    with pytest.raises(CannotRun, match=r"missing\.py does not exist"):
        write(entry_for("missing.py:attention"))


# --- the tensors


def same_tensors(text, case):
    """Whether the tensors that a script makes lie and hold, in all their memory, what the case's do."""
    setting, _, _ = text.rpartition("\nwanted = ")
    made: dict = {}
    exec(compile(setting.replace("from toys import right as subject", ""), "bug.py", "exec"), made)
    problem = build(case)
    for role, was in problem.tensors.items():
        now = made[role]
        assert (now.shape, now.stride(), now.storage_offset()) == (was.shape, was.stride(), was.storage_offset())
        assert torch.equal(_bits(now), _bits(was))
    return made


def _bits(tensor):
    """The memory of a tensor, with one NaN for all."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    return torch.where(memory.isnan(), 12345.0, memory.float())


@given(case=attention_cases(max_length=200, max_work=1 << 12, history=False, gradients=True))
def test_a_script_makes_the_very_tensors_of_the_case(case):
    same_tensors(script("right", case), case)


@pytest.mark.parametrize("family", ["normal", "falling", "clusters", "small_integers"])
def test_large_tensors_are_generated_by_a_copy_of_their_family(family):
    spec = TensorSpec(family, 7, "padded_rows")
    lengths = Features(seqlens_k=(90, 0, 200))
    case = AttentionCase(Geometry(3, 2, 1, 200, 200, 16), "bf16", lengths, spec, spec, spec, past_end="huge")
    text = script("right", case)
    assert f"def {family}(" in text
    assert "from_bytes" not in text.partition("require_near(")[0].partition("Q = ")[2].partition("q = ")[0]
    same_tensors(text, case)
    assert (run_here(text), len(text) < 100_000) == ("", True)


def test_small_tensors_stand_literally():
    text = script("right", AttentionCase(Geometry(Nk=3), v=TensorSpec("small_integers", 1)))
    (values,) = (line for line in text.splitlines() if line.startswith("V = "))
    assert re.fullmatch(r"V = torch\.tensor\(\[-?\d\.0, -?\d\.0, -?\d\.0], dtype=torch\.float32\)\.reshape.*", values)


# --- the parts


def asked_of(problem):
    return {name: problem.given(name) for name in problem.features.asked()}


@given(case=attention_cases(max_length=40, max_work=1 << 10, history=False))
def test_the_reference_is_the_truth(case):
    problem = build(case)
    O, LSE = parts.reference(problem.q, problem.k, problem.v, asked_of(problem))
    truth = float64(problem)
    torch.testing.assert_close(O, truth.O, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(LSE, truth.LSE, rtol=1e-9, atol=1e-9)


@given(case=attention_cases(max_length=40, max_work=1 << 10, history=False, gradients="only"))
def test_the_gradients_of_the_reference_are_the_truth(case):
    problem = build(case)
    tensors = problem.q, problem.k, problem.v, problem.dO, problem.dLSE
    found = parts.reference_gradients(*tensors, asked_of(problem))
    wanted = gradients64(problem, float64(problem))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("got", "wanted", "is_near"),
    [(1.0, 1.0, True), (1.0, 1.05, True), (1.0, 1.2, False), (torch.nan, 1.0, False), (-torch.inf, -torch.inf, True)],
)
def test_near_is_within_what_is_allowed(got, wanted, is_near):
    numbers = torch.tensor([got]), torch.tensor([wanted], dtype=torch.float64)
    if is_near:
        parts.require_near("O", *numbers, 0.1, torch.float32)
    else:
        with pytest.raises(AssertionError, match=r"O\[0\]: got"):
            parts.require_near("O", *numbers, 0.1, torch.float32)


# --- the subject


def test_an_adapter_that_ships_is_written_out():
    case = AttentionCase(Geometry(Nk=16), "fp16", Features(causal=True))
    for name in ("sdpa", "sdpa_math", "flex"):
        text = write(entry_for(name, case))
        imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
        assert not {module.partition(".")[0] for module in imported} & {"harness", "strategies", "oracles"}
        assert run_here(text) == ""
        shifted = text.replace("wanted = reference(q, k, v,", "wanted = reference(q, k, -v,")
        assert run_here(shifted).startswith("AssertionError: O[")


@pytest.mark.parametrize("name", shipped())
def test_every_adapter_that_ships_can_be_written_out(name):
    compile(subject.lines(name), "bug.py", "exec")


def test_our_kernel_is_imported_by_its_name():
    assert "from kernel import flash_attention\n" in subject.lines("kernel_hopper")


def test_an_adapter_that_hangs_on_the_harness_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(subject, "_OURS", ("harness", "strategies", "oracles", "torch"))
    with pytest.raises(CannotRun, match=r"uses scaled_dot_product_attention of the harness"):
        subject.lines("sdpa")


def test_a_subject_in_a_folder_or_a_package_is_imported_from_where_the_script_runs(project):
    (project / "my-kernels").mkdir()
    (project / "my-kernels" / "bad-one.py").write_text(TOYS)
    (project / "own").mkdir()
    (project / "own" / "module.py").write_text(TOYS)
    for name in ("my-kernels/bad-one.py:ignores_causal", "own.module:ignores_causal"):
        text = write(entry_for(name))
        assert "AssertionError: O[0, 0, 0, 0]" in run_here(text)
        assert str(project) not in text


def test_what_a_stranger_wrote_stays_text():
    entry = entry_for("toys.py:right")
    entry = replace(entry, verdict=replace(entry.verdict, sentence='"""\nraise SystemExit(3)\n"""\\'))
    assert run_here(write(entry)) == ""


# --- the command


def test_the_command_prints_a_script_that_runs(capsys, project):
    path = entries.save(entry_for("toys.py:ignores_causal"), project / "regressions")
    assert main(["corpus", "script", path.stem]) == 0
    assert "AssertionError" in run_here(capsys.readouterr().out)
    assert main(["corpus", "show", path.stem]) == 0
    assert (
        f"  script   flashattest corpus script regressions/toys.ignores_causal/{path.name}" in capsys.readouterr().out
    )


def test_a_subject_with_a_signature_of_its_own(project):
    (project / "named.py").write_text(
        "import toys\n\ndef own(q, k, v, *, masks, extra):\n    return toys.right(q, k, v)\n"
    )
    signature = "q, k, v, causal:masks=False, extra=2"
    case = AttentionCase(Geometry(Nk=2), features=Features(causal=True))
    text = write(entry_for(f"named.py:own({signature})", case=case))
    assert "def subject(q, k, v, causal=False):\n    return own_subject(q, k, v, masks=causal, extra=2)" in text
    assert "O[" in run(text).stderr


TUNED = """
import torch
import triton
import triton.language as tl

@triton.autotune([triton.Config({"FACTOR": 1}), triton.Config({"FACTOR": 2}, num_warps=8)], key=["n"])
@triton.jit
def scale(x, n, FACTOR: tl.constexpr):
    for i in range(n):
        tl.store(x + i, tl.load(x + i) * FACTOR)

def attention(q, k, v):
    o = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double()).to(q.dtype)
    scale[(1,)](o, o.numel())
    return o
"""


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the interpreter is off")
def test_a_configuration_of_an_autotuned_kernel(project):
    (project / "tuned.py").write_text(TUNED)
    wrong, right = (AttentionCase(features=Features(config=f"FACTOR={factor}")) for factor in (2, 1))
    done = run(write(entry_for("tuned.py:attention", case=wrong)))
    assert "O[" in done.stderr
    assert run(write(entry_for("tuned.py:attention", case=right))).returncode == 0
