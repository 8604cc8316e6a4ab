"""Every check fails on its fault, and passes a right subject."""

import pytest
import torch

from harness.errors import Refused
from harness.judging.checks import CHECKS
from harness.judging.examine import Question, examine
from harness.judging.judge import judge
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from strategies import AttentionCase, Features, Geometry, TensorSpec
from tests.harness import toys

SQUARE = AttentionCase(Geometry(B=2, Hq=2, Nq=5, Nk=5, d=4), dtype="fp16")
CAUSAL = SQUARE.replace(features=Features(causal=True))
EMPTY = SQUARE.replace(features=Features(seqlens_k=(0, 3)), past_end="nan")
WITH_LSE = SQUARE.replace(features=Features(return_lse=True))
LONG = AttentionCase(Geometry(Nk=65))
BACKWARD = SQUARE.replace(operation="forward_backward")
CAUSAL_BACKWARD = CAUSAL.replace(operation="forward_backward")
OF_LSE = WITH_LSE.replace(operation="forward_backward", dLSE=TensorSpec())
EMPTY_WITH_LSE = EMPTY.replace(features=EMPTY.features.replace(return_lse=True))


def writes_past_output(q, k, v):
    """One element past the end of O is written."""
    O = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    O.as_strided((1,), (1,), O.storage_offset() + O.numel()).zero_()
    return O.copy_(toys.right(q, k, v))


def writes_past_scratch(q, k, v):
    """One element before the start of a tensor that is not returned is written."""
    scratch = torch.zeros(7, device=q.device)
    scratch.as_strided((1,), (1,), scratch.storage_offset() - 1).fill_(1)
    return toys.right(q, k, v)


def reads_past_v(q, k, v):
    """What lies behind V is added with weight 0."""
    beyond = v.storage_offset() + sum((n - 1) * s for n, s in zip(v.shape, v.stride(), strict=True)) + 1
    return toys.right(q, k, v) + 0 * v.as_strided((1,), (1,), beyond)


def reads_past_scratch(q, k, v):
    """What lies behind a new tensor is added with weight 0."""
    scratch = torch.zeros(7, device=q.device)
    return toys.right(q, k, v) + 0 * scratch.as_strided((1,), (1,), scratch.storage_offset() + 7).to(q.dtype)


def returns_v(q, k, v):
    """The only visible key's V itself, not a copy of it."""
    return v if k.shape == q.shape and k.shape[2] == 1 else toys.right(q, k, v)


def declared(function, **limits):
    """The function, declaring this."""

    def attention(*tensors, **asked):
        return function(*tensors, **asked)

    attention.__flashattest__ = limits
    return attention


def lse_outside(q, k, v, return_lse=False):
    """LSE has no grad_fn."""
    O, LSE = toys.right(q, k, v, return_lse=True)
    return (O, LSE.detach()) if return_lse else O


def wrong_dq(q, k, v):
    """dQ is off by a little."""
    return toys.right(toys.passed(q, lambda dQ: dQ + 0.25), k, v)


FIRES = [
    (returns_v, AttentionCase(), "output_aliased", "own_memory"),
    (toys.raises_on_long_keys, LONG, "raised", "returns"),
    (toys.scales_in_place, SQUARE, "input_mutated", "inputs_unchanged"),
    (toys.writes_past_q, SQUARE, "out_of_bounds", "surroundings_unchanged"),
    (writes_past_output, SQUARE, "out_of_bounds", "surroundings_unchanged"),
    (writes_past_scratch, SQUARE, "out_of_bounds", "surroundings_unchanged"),
    (reads_past_v, SQUARE, "out_of_bounds", "values"),
    (reads_past_scratch, SQUARE, "out_of_bounds", "values"),
    (toys.returns_fp32, SQUARE, "wrong_shape_or_dtype", "form"),
    (toys.returns_extra_row, SQUARE, "wrong_shape_or_dtype", "form"),
    (toys.ignores_causal, CAUSAL, "wrong_values", "values"),
    (toys.nan_on_empty_rows, EMPTY, "not_finite", "values"),
    (toys.leaves_last_row, SQUARE, "not_finite", "values"),
    (toys.lse_in_base_2, WITH_LSE, "wrong_lse", "lse"),
    (toys.drops_the_graph, BACKWARD, "wrong_gradient", "gradient_form"),
    (toys.drops_dq, BACKWARD, "wrong_gradient", "gradient_form"),
    (toys.doubles_dk, BACKWARD, "wrong_gradient", "gradient_of_k"),
    (toys.leaves_last_row_of_dv, BACKWARD, "wrong_gradient", "gradient_of_v"),
    (wrong_dq, BACKWARD, "wrong_gradient", "gradient_of_q"),
    (toys.writes_past_dv, BACKWARD, "out_of_bounds", "surroundings_unchanged"),
    (toys.writes_to_dO, BACKWARD, "input_mutated", "inputs_unchanged"),
    (toys.reads_past_dO, BACKWARD.replace(needs_grad=("v",)), "out_of_bounds", "gradient_of_v"),
    (toys.raises_in_backward, BACKWARD, "raised", "returns"),
    (toys.returns_fp32, BACKWARD, "wrong_shape_or_dtype", "form"),
    (toys.ignores_causal, CAUSAL_BACKWARD, "wrong_values", "values"),
]


def verdicts(function, case):
    return judge(attempt(describe(function), case, "cpu"))


@pytest.mark.parametrize(("function", "case", "kind", "check"), FIRES, ids=lambda x: getattr(x, "__name__", None))
def test_fires(function, case, kind, check):
    assert [(v.kind, v.check) for v in verdicts(function, case)] == [(kind, check)]


BACKWARDS = [
    BACKWARD,
    CAUSAL_BACKWARD,
    OF_LSE,
    EMPTY.replace(operation="forward_backward"),
    EMPTY_WITH_LSE.replace(operation="forward_backward", dLSE=TensorSpec(layout="expanded_all")),
    BACKWARD.replace(dO=TensorSpec("large", layout="expanded_all")),
    BACKWARD.replace(dO=TensorSpec(layout="column_major"), needs_grad=("k",)),
    OF_LSE.replace(needs_grad=("v",)),
]


@pytest.mark.parametrize("case", [SQUARE, CAUSAL, EMPTY, WITH_LSE, EMPTY_WITH_LSE, LONG, *BACKWARDS], ids=repr)
def test_silent_on_right(case):
    assert verdicts(toys.right, case) == []


def test_every_check_has_a_case_that_fires():
    assert {check for *_, check in FIRES} == set(CHECKS)


@pytest.mark.parametrize("layout", ["contiguous", "bshd", "padded_rows", "sliced", "column_major"])
def test_a_write_to_an_element_is_told_from_one_beside_it(layout):
    q = TensorSpec(layout=layout)
    found = verdicts(toys.scales_in_place, SQUARE.replace(q=q, k=q, v=q))
    assert {v.kind for v in found} == {"input_mutated"}


def test_of_a_missing_gradient_the_sentence_says_why():
    (cut_off,) = verdicts(toys.drops_the_graph, BACKWARD)
    (missing,) = verdicts(toys.drops_dq, BACKWARD)
    assert cut_off.sentence == "O came back without a grad_fn: no gradient reaches q and k and v."
    assert missing.sentence == "dQ is missing: the graph of O does not lead to q."


def test_only_the_gradients_that_are_asked_for_are_held():
    compared = attempt(describe(toys.right), BACKWARD.replace(needs_grad=("q", "v")), "cpu").compared
    assert list(compared) == ["O", "dQ", "dV"]
    assert verdicts(toys.drops_dq, BACKWARD.replace(needs_grad=("k", "v"))) == []


def test_a_lost_gradient_of_lse_is_seen_where_one_comes():
    assert verdicts(toys.ignores_dlse, OF_LSE.replace(dLSE=None)) == []
    found = {(v.kind, v.tensor) for v in verdicts(toys.ignores_dlse, OF_LSE)}
    assert found == {("wrong_gradient", "dQ"), ("wrong_gradient", "dK")}


def test_a_gradient_of_what_is_wrong_says_nothing_new():
    (verdict,) = verdicts(toys.ignores_causal, CAUSAL_BACKWARD)
    assert verdict.tensor == "O"


def test_a_gradient_in_the_memory_of_an_input_is_told():
    def returns_v_itself(q, k, v):
        return toys.right(q, k, toys.passed(v, lambda dV: v.detach()))

    assert ("output_aliased", "own_memory") in {(v.kind, v.check) for v in verdicts(returns_v_itself, BACKWARD)}


def test_what_raises_in_the_backward_is_said_to():
    (verdict,) = verdicts(toys.raises_in_backward, BACKWARD)
    raised = "The backward of the call raised RuntimeError: no backward today (tests/harness/toys.py:"
    assert verdict.sentence.startswith(raised)
    assert verdict.sentence.endswith(' in fail: raise RuntimeError("no backward today"))')


def test_a_wrong_gradient_has_the_parts_of_its_budget():
    (verdict,) = verdicts(toys.doubles_dk, BACKWARD)
    assert (verdict.tensor, len(verdict.where)) == ("dK", 4)
    assert sum(verdict.parts.values()) == pytest.approx(verdict.budget)


@pytest.mark.parametrize(
    ("function", "case", "why"),
    [
        (toys.refuses_backward, BACKWARD, "no backward for this"),
        (declared(toys.plain, differentiable=False), BACKWARD, "is not differentiable"),
        (lse_outside, OF_LSE, "its LSE is not differentiable"),
    ],
    ids=["in the backward", "declared", "LSE"],
)
def test_gradients_that_are_not_there_are_refused(function, case, why):
    with pytest.raises(Refused, match=why):
        verdicts(function, case)


def test_lse_may_be_outside_of_the_graph_of_v():
    assert verdicts(lse_outside, OF_LSE.replace(needs_grad=("v",))) == []


def test_refusal_is_no_failure():
    with pytest.raises(Refused, match="bf16 is not supported"):
        verdicts(toys.refuses_bf16, SQUARE.replace(dtype="bf16"))


def test_keyword_that_is_missing_is_refused():
    with pytest.raises(Refused, match="no keyword 'causal'"):
        verdicts(toys.plain, CAUSAL)


def test_verdict_describes_the_worst_element():
    (verdict,) = verdicts(toys.ignores_causal, CAUSAL)
    assert verdict.tensor == "O"
    assert len(verdict.where) == 4
    assert verdict.error == pytest.approx(abs(verdict.got - verdict.wanted))
    assert verdict.ratio == pytest.approx(verdict.error / verdict.budget)
    assert sum(verdict.parts.values()) == pytest.approx(verdict.budget)


def test_a_write_names_the_tensor_that_it_passes():
    (verdict,) = verdicts(writes_past_scratch, SQUARE)
    assert verdict.sentence == (
        "The call wrote outside the float32 tensor of shape (7,) that it made with torch.zeros."
    )


def test_a_read_outside_is_told_from_memory_never_written():
    (read,) = verdicts(reads_past_v, SQUARE)
    (unwritten,) = verdicts(toys.leaves_last_row, SQUARE)
    assert "that memory was read" in read.sentence
    assert unwritten.kind == "not_finite"


def right_once():
    """Right at first, and wrong in any call that follows one of another size."""
    last = []

    def attention(q, k, v):
        follows, last[:] = bool(last) and last != [k.shape], [k.shape]
        return toys.right(q, k, v) + follows

    return attention


def test_wrong_only_after_its_calls_is_history_dependent():
    attention = right_once()
    assert not {verdict.check for verdict in verdicts(attention, LONG)} & set(CHECKS)
    (verdict,) = verdicts(attention, LONG.replace(history=("more_keys",)))
    assert (verdict.kind, verdict.check) == ("history_dependent", "values")
    assert "After the calls more_keys, and not without them" in verdict.sentence


def test_wrong_without_its_calls_too_is_no_matter_of_history():
    (verdict,) = verdicts(toys.raises_on_long_keys, LONG.replace(history=("other_values",)))
    assert verdict.kind == "raised"


@pytest.mark.parametrize(
    ("function", "case", "named"),
    [
        (reads_past_v, SQUARE, "its input v"),
        (reads_past_scratch, SQUARE, "a tensor that it made itself"),
        (toys.reads_past_dO, BACKWARD.replace(needs_grad=("v",)), "its input dO"),
    ],
)
def test_a_read_out_of_bounds_names_its_tensor(function, case, named):
    (verdict, *_) = examine(describe(function), Question(case, others=False, votes=True), "cpu").verdicts
    assert verdict.sentence.endswith(f"It lies outside {named}.")


def test_an_empty_output_needs_a_graph_only_where_gradients_are_declared():
    def returns_early(q, k, v):
        return torch.empty_like(q).detach() if q.numel() == 0 else toys.right(q, k, v)

    empty = BACKWARD.replace(geometry=Geometry(Nq=0))
    assert verdicts(returns_early, empty) == []
    returns_early.__flashattest__ = {"differentiable": True}
    assert [verdict.check for verdict in verdicts(returns_early, empty)] == ["gradient_form"]
