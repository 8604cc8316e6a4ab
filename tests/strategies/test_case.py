"""A case prints as a line that evaluates back, has stable JSON, and rejects what is not legal."""

import json

import pytest
from hypothesis import given

from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases
from strategies.case import MAX_HISTORY
from strategies.geometry import MAX_ELEMENTS, MAX_HEAD_DIM, MAX_LENGTH
from strategies.tensor_spec import MAX_SEED

FULL = AttentionCase(
    Geometry(2, 6, 3, 5, 7, 8),
    "bf16",
    Features("lower_right", -0.25, (0, 7), True, "64x64"),
    TensorSpec("one_hot", 9, "bshd"),
    TensorSpec("large", 10, "sliced"),
    TensorSpec("rising", 11, "expanded_rows"),
    past_end="nan",
    history=("other_values", "more_keys"),
)
FULL_LINE = (
    "AttentionCase(geometry=Geometry(B=2, Hq=6, Hk=3, Nq=5, Nk=7, d=8), dtype='bf16', "
    "features=Features(causal='lower_right', scale=-0.25, seqlens_k=(0, 7), return_lse=True, config='64x64'), "
    "q=TensorSpec(values='one_hot', seed=9, layout='bshd'), k=TensorSpec(values='large', seed=10, layout='sliced'), "
    "v=TensorSpec(values='rising', seed=11, layout='expanded_rows'), past_end='nan', "
    "history=('other_values', 'more_keys'))"
)
FULL_JSON = {
    "geometry": {"B": 2, "Hq": 6, "Hk": 3, "Nq": 5, "Nk": 7, "d": 8},
    "dtype": "bf16",
    "features": {
        "causal": "lower_right",
        "scale": -0.25,
        "seqlens_k": [0, 7],
        "return_lse": True,
        "config": "64x64",
    },
    "q": {"values": "one_hot", "seed": 9, "layout": "bshd"},
    "k": {"values": "large", "seed": 10, "layout": "sliced"},
    "v": {"values": "rising", "seed": 11, "layout": "expanded_rows"},
    "past_end": "nan",
    "history": ["other_values", "more_keys"],
}

GRADIENTS = {
    "operation": "forward_backward",
    "dO": TensorSpec("constant", 3, "expanded_all"),
    "dLSE": TensorSpec("tiny", 4),
    "needs_grad": ("q", "v"),
}
GRADIENTS_JSON = {
    "operation": "forward_backward",
    "dO": {"values": "constant", "seed": 3, "layout": "expanded_all"},
    "dLSE": {"values": "tiny", "seed": 4},
    "needs_grad": ["q", "v"],
}
EVERY_CASE = attention_cases(configs=("64x64",), gradients=True)


@given(case=EVERY_CASE)
def test_repr_evaluates_back(case):
    assert eval(repr(case)) == case


@given(case=EVERY_CASE)
def test_json_comes_back(case):
    assert AttentionCase.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_the_printed_line_stays():
    assert repr(FULL) == FULL_LINE


def test_the_json_stays():
    assert FULL.to_json() == FULL_JSON
    assert list(FULL.to_json()) == list(FULL_JSON)
    assert AttentionCase.from_json(FULL_JSON) == FULL


def test_a_case_of_gradients_says_so_and_comes_back():
    case = FULL.replace(**GRADIENTS)
    assert case.has_gradients
    assert not FULL.has_gradients
    assert case.to_json() == FULL_JSON | GRADIENTS_JSON
    assert AttentionCase.from_json(case.to_json()) == case == eval(repr(case))


def test_what_has_its_default_is_left_out():
    assert repr(AttentionCase()) == "AttentionCase()"
    assert AttentionCase().to_json() == {}
    assert AttentionCase.from_json({}) == AttentionCase()


def test_cases_are_values():
    assert FULL.replace() == FULL
    assert len({FULL, FULL.replace(), FULL.replace(dtype="fp16")}) == 2
    with pytest.raises(AttributeError):
        FULL.dtype = "fp32"


def test_replace_checks_again():
    with pytest.raises(ValueError, match="seqlens_k must hold one length"):
        FULL.replace(geometry=FULL.geometry.replace(B=1))


ILLEGAL = [
    ([], "AttentionCase must be a JSON object, not list."),
    ({"geometry": 3}, "Geometry must be a JSON object, not int."),
    ({"more": 1}, "AttentionCase has no field 'more'; its fields are"),
    ({"features": {"windows": 1}}, "Features has no field 'windows'"),
    ({"geometry": {"B": 0}}, "B must be a whole number from 1 to"),
    ({"geometry": {"B": True}}, "B must be a whole number"),
    ({"geometry": {"Nq": 1.0}}, "Nq must be a whole number"),
    ({"geometry": {"Nk": MAX_LENGTH + 1}}, "Nk must be a whole number from 0 to"),
    ({"geometry": {"d": MAX_HEAD_DIM + 1}}, "d must be a whole number from 1 to"),
    ({"geometry": {"Hq": 3, "Hk": 2}}, "Hq must be a multiple of Hk, not 3 against 2."),
    ({"geometry": {"Hq": MAX_LENGTH, "Nq": MAX_LENGTH}}, f"holds at most {MAX_ELEMENTS} elements"),
    ({"dtype": "fp8"}, "dtype must be one of fp32, fp16, bf16, not 'fp8'."),
    ({"dtype": []}, "dtype must be one of"),
    ({"past_end": "zero"}, "past_end must be one of"),
    ({"operation": "backward"}, "operation must be one of forward"),
    ({"dO": {"seed": 1}}, "dO, dLSE and needs_grad belong to operation 'forward_backward', not to 'forward'."),
    ({"needs_grad": ["q"]}, "dO, dLSE and needs_grad belong to operation"),
    ({"dLSE": {}, "features": {"return_lse": True}}, "dO, dLSE and needs_grad belong to operation"),
    ({"operation": "forward_backward", "dLSE": {}}, "dLSE needs return_lse=True"),
    ({"operation": "forward_backward", "needs_grad": []}, "needs_grad must be one of ('q',), ('k',)"),
    ({"operation": "forward_backward", "needs_grad": ["v", "q"]}, "needs_grad must be one of"),
    ({"q": {"layout": "expanded_all"}}, "layout of q must be one of contiguous,"),
    ({"history": "other_values"}, "history must be a tuple"),
    ({"history": ["nothing"]}, "variation must be one of"),
    ({"history": [["other_values"]]}, "variation must be one of"),
    ({"history": ["other_values"] * (MAX_HISTORY + 1)}, f"history holds {MAX_HISTORY} calls at most"),
    ({"features": {"causal": "upper_left"}}, "causal must be False, True or 'lower_right', not 'upper_left'."),
    ({"features": {"causal": 1}}, "causal must be"),
    ({"features": {"scale": 1}}, "scale must be None or a finite float"),
    ({"features": {"scale": float("inf")}}, "scale must be None or a finite float"),
    ({"features": {"scale": float("nan")}}, "scale must be None or a finite float"),
    ({"features": {"return_lse": 1}}, "return_lse must be a bool"),
    ({"features": {"config": 64}}, "config must be None or a string"),
    ({"features": {"seqlens_k": 1}}, "seqlens_k must be a tuple or None"),
    ({"features": {"seqlens_k": []}}, "one length for each of 1 batch entries, not 0"),
    ({"features": {"seqlens_k": [2]}}, "seqlens_k must be a whole number from 0 to 1, not 2."),
    ({"features": {"seqlens_k": [-1]}}, "seqlens_k must be a whole number"),
    ({"features": {"seqlens_k": [[1]]}}, "seqlens_k must be a whole number"),
    ({"q": {"values": "gaussian"}}, "value family must be one of normal,"),
    ({"k": {"layout": "sparse"}}, "layout must be one of contiguous,"),
    ({"v": {"seed": -1}}, "seed must be a whole number from 0 to"),
    ({"v": {"seed": MAX_SEED + 1}}, "seed must be a whole number from 0 to"),
]


@pytest.mark.parametrize(("data", "sentence"), ILLEGAL, ids=lambda value: str(value)[:40])
def test_what_is_not_legal_is_refused_in_one_sentence(data, sentence):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the sentence is looked at below)
        AttentionCase.from_json(data)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_derived_sizes():
    g = FULL.geometry
    assert (g.q_shape, g.k_shape, g.group) == ((2, 6, 5, 8), (2, 3, 7, 8), 2)
    assert FULL.work == 2 * 6 * 5 * 7
    assert (FULL.scale, AttentionCase(Geometry(d=16)).scale) == (-0.25, 0.25)
    assert FULL.replace(features=Features(scale=0.0)).scale == 0.0
    assert (FULL.lengths, FULL.replace(features=Features()).lengths) == ((0, 7), (7, 7))
