"""The declaration that would have avoided the refused cases is found, and none where none would."""

from random import Random

import pytest

from harness.subject.declaration import describe
from harness.subject.propose import propose
from strategies import AttentionCase, Features, Geometry, TensorSpec
from strategies.layouts import LAYOUTS
from tests.harness import toys


def some(count=300):
    """Cases that differ in everything that can be declared."""
    pick = Random(1).choice
    for _ in range(count):
        B, Hk, group = pick((1, 2)), pick((1, 2)), pick((1, 2))
        geometry = Geometry(B, Hk * group, Hk, pick((0, 1, 16, 64, 128)), pick((0, 1, 16, 64, 128)), pick((8, 24, 64)))
        features = Features(causal=pick((False, True, "lower_right")), scale=pick((None, 1.0, 0.0, -1.0)))
        q, k, v = (TensorSpec(layout=pick((*LAYOUTS, *["contiguous"] * 30))) for _ in range(3))
        backward = pick((False, True))
        case = AttentionCase(geometry, pick(("fp32", "fp16", "bf16")), features, q, k, v)
        yield (
            case.replace(operation="forward_backward", dO=TensorSpec(layout=pick(("bshd", "expanded_all"))))
            if (backward)
            else case
        )


RULES = [
    (lambda case: case.geometry.Nq == case.geometry.Nk, '"self_attention": True'),
    (lambda case: case.geometry.group == 1, '"gqa": False'),
    (lambda case: case.scale > 0, '"positive_scale": True'),
    (lambda case: len({case.q.layout, case.k.layout, case.v.layout}) == 1, '"same_layout": True'),
    (lambda case: case.geometry.Nq > 0 < case.geometry.Nk, '"min_length": 1'),
    (lambda case: not case.has_gradients, '"differentiable": False'),
    (lambda case: case.geometry.Nk % 16 == 0, '"Nk_multiple_of": 16'),
    (lambda case: case.geometry.Nq <= 16, '"max_Nq": 16'),
    (lambda case: case.dtype != "fp32", "\"dtypes\": ('bf16', 'fp16')"),
    (lambda case: case.geometry.d < 64, '"max_head_dim": 24'),
    (lambda case: case.geometry.d > 8, '"min_head_dim": 24'),
    (lambda case: case.features.causal != "lower_right", '"alignments": ("upper_left",)'),
    (lambda case: case.features.causal is False, "no keyword 'causal' in the signature"),
    (lambda case: case.dO.layout != "expanded_all", "\"dO_layouts\": ('bshd',)"),
]


@pytest.mark.parametrize(("takes", "wanted"), RULES, ids=[wanted for _, wanted in RULES])
def test_a_rule_is_found(takes, wanted):
    refused = [case for case in some() if not takes(case)]
    assert propose(refused, filter(takes, some())) == wanted


def test_a_second_rule_does_not_hide_the_first():
    refused = [case for case in some() if case.geometry.Nq != case.geometry.Nk or case.dtype == "fp32"]
    taken = [case for case in some() if case not in refused]
    assert propose(refused, taken) == '"self_attention": True'


def test_nothing_is_proposed_without_a_rule():
    cases = list(some())
    assert propose(cases[::2], cases[1::2]) is None
    assert propose(cases, []) is None
    assert propose([], cases) is None


def test_what_is_proposed_can_be_declared():
    for _, wanted in RULES:
        if not wanted.startswith("no keyword"):
            function = type("F", (), {"__call__": staticmethod(toys.plain)})()
            function.__flashattest__ = eval(f"{{{wanted}}}")
            assert describe(function)
