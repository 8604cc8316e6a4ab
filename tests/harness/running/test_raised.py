"""An exception is described with the one frame of the subject that raised it."""

import pytest
import torch

from harness.judging.judge import judge
from harness.judging.story import story
from harness.running.attempt import attempt
from harness.running.raised import describe_raised, subject_frame
from harness.subject.declaration import describe
from strategies import AttentionCase

ASSERTS = """
def attention(q, k, v):
    return inner(q)

def inner(q):
    assert q.shape[-1] == 16
"""


@pytest.fixture
def asserts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "asserts.py"
    path.write_text(ASSERTS)
    names = {}
    exec(compile(ASSERTS, str(path), "exec"), names)
    return names["attention"]


def test_an_assertion_without_a_message_has_its_line_in_the_report(asserts):
    subject = describe(asserts)
    (verdict,) = judge(attempt(subject, AttentionCase(), "cpu"))
    assert verdict.sentence == "The call raised AssertionError (asserts.py:6 in inner: assert q.shape[-1] == 16)"
    assert verdict.sentence in story("asserts", AttentionCase(), verdict)
    assert verdict.place.endswith("asserts.py:6")


def test_the_frame_is_the_subjects_and_not_torchs():
    def attention():
        return torch.nn.functional.softmax(None, -1)

    with pytest.raises(AttributeError) as raised:
        attention()
    assert subject_frame(raised.value).function == "attention"


def test_where_no_code_is_the_subjects_there_is_no_frame():
    assert describe_raised(ValueError("no")) == "ValueError: no"


def test_in_tritons_interpreter_the_frame_is_the_kernels():
    interpreter = pytest.importorskip("triton.runtime.errors")

    def kernel():
        raise IndexError("out")

    def attention():
        try:
            kernel()
        except IndexError as error:
            raise interpreter.InterpreterError(repr(error)) from error

    with pytest.raises(Exception, match="out") as raised:
        attention()
    assert subject_frame(raised.value).function == "kernel"


def test_a_compilation_error_says_what_is_wrong():
    assert describe_raised(ValueError("at 3:4:\n    x = y\n    ^\ny is not defined")) == (
        "ValueError: at 3:4: y is not defined"
    )
