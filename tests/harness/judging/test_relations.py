"""Every relation fails on a fault that the check of a single call passes, and passes a right subject."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch

from harness.errors import CannotRun
from harness.judging.judge import judge
from harness.judging.relations import BITS, RELATIONS, check_relations, select_relations
from harness.recall.faults.witness import gradients
from harness.running.attempt import Attempt, attempt
from harness.running.call import Result
from harness.subject.declaration import EXACT, describe
from harness.subject.loading import load
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from tests.harness import toys


def case(Nq=3, Nk=5, d=16, B=1, Hq=1, Hk=1, dtype="fp32", q="normal", k="normal", v="normal", **features):
    specs = {name: TensorSpec(values, 7) for name, values in zip("qkv", (q, k, v), strict=True)}
    return AttentionCase(Geometry(B, Hq, Hk, Nq, Nk, d), dtype, Features(**features), **specs)


def one_bit_off(x):
    """The next number: far within any budget."""
    return x.nextafter(torch.full_like(x, torch.inf))


def drifting():
    """Every second call is one bit off."""
    calls = itertools.count()

    def attention(q, k, v):
        O = toys.right(q, k, v)
        return one_bit_off(O) if next(calls) % 2 else O

    return attention


def one_buffer():
    """The output is a buffer that the next call of the same shape writes again."""
    kept = {}

    def attention(q, k, v):
        return kept.setdefault(q.shape, torch.empty_like(q)).copy_(toys.right(q, k, v))

    return attention


def marked_by_causal():
    """After the first causal call, all others are one bit off."""
    seen = []

    def attention(q, k, v, causal=False):
        O = toys.right(q, k, v, causal)
        if causal:
            seen.append(True)
        return one_bit_off(O) if seen else O

    return attention


def v_at_strides_of_k():
    return lambda q, k, v: toys.right(q, k, v.as_strided(v.shape, k.stride(), v.storage_offset()))


def peeks_at_last_key():
    """A bit of O depends on the sign of the last key, visible or not."""

    def attention(q, k, v, causal=False):
        O = toys.right(q, k, v, causal)
        return torch.where(k[:, :, -1:, :1] > 0, O, one_bit_off(O))

    return attention


def weighs_padding_with_0():
    """0 times NaN is NaN."""

    def attention(q, k, v, seqlens_k=None):
        O = toys.right(q, k, v, seqlens_k=seqlens_k)
        return O if seqlens_k is None else O + 0 * v[:, :, seqlens_k.max() :].sum(2, keepdim=True)

    return attention


def wrong_where(condition, factor=1.01):
    """All of O is one in a hundred off where the condition on (q, k) holds."""
    return lambda: lambda q, k, v: toys.right(q, k, v) * (factor if condition(q, k) else 1)


def last_key_lost():
    return lambda q, k, v, scale=None: toys.right(q, k[:, :, :-1], v[:, :, :-1], scale=scale)


def least_scale():
    return lambda q, k, v, scale=None: toys.right(q, k, v, scale=scale and max(scale, 0.1))


def sign_lost():
    return lambda q, k, v, scale=None: toys.right(q, k, v, scale=scale and abs(scale))


def v_clamped():
    return lambda q, k, v: toys.right(q, k, v.clamp(-4, 4))


def o_clamped():
    return lambda q, k, v: toys.right(q, k, v).clamp(-0.9, 0.9)


def wide_scale_lost():
    return lambda q, k, v, scale=None: toys.right(q, k, v, scale=scale if q.shape[3] <= 16 else None)


def one_config_wrong():
    def attention(q, k, v, config=None):
        return toys.right(q, k, v) * (1.01 if config == "b" else 1)

    attention.__flashattest__ = {"configs": ("a", "b")}
    return attention


def scores_clamped():
    """Scores past 5 are cut, which takes a common part of the keys."""

    def attention(q, k, v):
        S = (q.double() @ k.double().mT * q.shape[3] ** -0.5).clamp(-5, 5)
        return (S.softmax(-1) @ v.double()).to(q.dtype)

    return attention


def lse_of_few_keys_off():
    def attention(q, k, v, return_lse=False):
        O, LSE = toys.right(q, k, v, return_lse=True)
        return (O, LSE + 0.1 * (k.shape[2] < 4)) if return_lse else O

    return attention


def leaves_hull():
    return lambda q, k, v, scale=None: toys.right(q, k, v, scale=scale) * -0.3


MANY = case(B=2, Hq=4, Hk=2)
FIRES = {
    "same_call_twice": (drifting, case(), "not_repeatable"),
    "first_output_kept": (one_buffer, case(), "output_aliased"),
    "called_before": (marked_by_causal, case(), "history_dependent"),
    "any_layout": (v_at_strides_of_k, case(Hq=2, Hk=2), "not_finite"),
    "causal_prefix": (peeks_at_last_key, case(causal=True), "wrong_values"),
    "noninterference": (weighs_padding_with_0, case(seqlens_k=(4,)), "not_finite"),
    "alone_as_in_batch": (wrong_where(lambda q, k: q.shape[0] == 1), MANY, "wrong_values"),
    "repeated_kv": (wrong_where(lambda q, k: k.shape[1] == 4), MANY, "wrong_values"),
    "keys_reversed": (last_key_lost, case(q="positive", k="falling", scale=1.0), "wrong_values"),
    "scale_against_q": (least_scale, case(scale=0.25), "wrong_values"),
    "sign_of_scale": (sign_lost, case(scale=0.25), "wrong_values"),
    "linear_in_v": (v_clamped, case(), "wrong_values"),
    "ones_give_one": (o_clamped, case(Nk=40), "wrong_values"),
    "single_key": (wrong_where(lambda q, k: k.shape[2] == 1), case(), "wrong_values"),
    "within_hull": (leaves_hull, case(d=256, q="large", k="constant", v="one_hot", scale=32.0), "wrong_values"),
    "common_vector": (scores_clamped, case(d=64), "wrong_values"),
    "zero_columns": (wide_scale_lost, case(scale=0.25), "wrong_values"),
    "split_and_merged": (lse_of_few_keys_off, case(), "wrong_values"),
    "any_config": (one_config_wrong, case(), "wrong_values"),
}
RIGHT = [
    case(),
    case(Nk=1),
    case(Nq=0),
    case(Nk=0),
    case(Nq=9, Nk=4, causal=True, return_lse=True),
    case(B=2, Hq=4, Hk=2, dtype="fp16", seqlens_k=(0, 3), return_lse=True, scale=-0.5),
    case(B=2, Hq=2, Hk=2, Nq=6, Nk=6, dtype="bf16", causal=True, seqlens_k=(2, 6), scale=1.0),
    case(q="large", k="large", v="large", dtype="fp16", scale=1.0),
    case(q="denormal", k="denormal", v="denormal", dtype="fp16", return_lse=True),
    case(k="constant", v="small_integers", dtype="bf16", d=3),
    case(Nk=70, d=33, q="positive", k="negative", scale=0.0),
]
"""Cases at the edges of what relations transform."""


def promising(function, exact=EXACT):
    """The function as a subject that promises these properties."""
    promised = functools.wraps(function)(lambda *a, **b: function(*a, **b))
    promised.__flashattest__ = {**getattr(function, "__flashattest__", {}), "exact": exact}
    return describe(promised, "toy")


def verdicts_of(function, tried_case, names, exact=EXACT):
    found = check_relations(attempt(promising(function, exact), tried_case, "cpu"), also=names)
    return [verdict for verdict in found if verdict.check in names]


@pytest.mark.parametrize("name", FIRES)
def test_fires(name):
    make, tried, kind = FIRES[name]
    assert [(v.kind, v.check) for v in verdicts_of(make(), tried, [name])] == [(kind, name)]


@pytest.mark.parametrize("name", FIRES)
def test_no_check_of_the_single_call_fires(name):
    make, tried, _ = FIRES[name]
    subject = promising(make())
    assert not [v for v in judge(attempt(subject, tried, "cpu")) if v.check not in RELATIONS]


@pytest.mark.parametrize("tried", RIGHT, ids=repr)
def test_silent_on_right(tried):
    kept = set(EXACT) - {"mask_invariant"}  # the toy weighs NaN that the diagonal hides with 0
    assert verdicts_of(toys.right, tried, RELATIONS, tuple(kept)) == []


@pytest.mark.parametrize("tried", [c for c in RIGHT if c.features.seqlens_k is None and c.geometry.Nk], ids=repr)
def test_silent_on_sdpa(tried):
    plain = attempt(load("sdpa"), tried.replace(features=tried.features.replace(return_lse=False)), "cpu")
    found = {verdict.check for verdict in check_relations(plain, also=RELATIONS)}
    # torch 2.13's flash kernel on the CPU masks before it scales: -inf times a negative scale is inf.
    assert found <= ({"sign_of_scale"} if tried.features.causal else set())


@pytest.mark.parametrize("name", ["causal_prefix", "called_before"])
def test_what_is_within_the_budget_takes_a_promise(name):
    make, tried, _ = FIRES[name]
    assert verdicts_of(make(), tried, [name], exact=()) == []
    (verdict,) = verdicts_of(make(), tried, [name])
    assert verdict.parts == {BITS: 0.0}
    assert 0 < abs(verdict.got - verdict.wanted) < 1e-5


def test_what_was_rounded_up_to_the_least_normal_number_is_no_multiple_of_what_was_not():
    drawn = case(Hq=30, Hk=30, Nq=64, Nk=17, d=32, dtype="fp16", v="one_hot", scale=-1.0)
    seeded = drawn.replace(**{name: getattr(drawn, name).replace(seed=1) for name in "qkv"})
    assert verdicts_of(toys.right, seeded, ["linear_in_v"]) == []


def test_a_further_call_that_raises_is_a_failure_of_its_own():
    def raises_on_one_key(q, k, v):
        return toys.right(q, k, v) if k.shape[2] > 1 else 1 / 0

    (verdict,) = verdicts_of(raises_on_one_key, case(), ["single_key"])
    assert (verdict.kind, verdict.check) == ("raised", "single_key")
    assert "division by zero" in verdict.sentence


def test_a_refused_further_call_is_none():
    def refuses_one_key(q, k, v):
        if k.shape[2] == 1:
            raise NotImplementedError("one key")
        return toys.right(q, k, v)

    assert verdicts_of(refuses_one_key, case(), ["single_key"]) == []


def test_choice_follows_from_the_case_and_reaches_every_relation():
    subject = describe(one_config_wrong())
    everything = replace(subject, keywords=frozenset({"causal", "scale", "seqlens_k", "return_lse", "config"}))
    large = FIRES["within_hull"][1]
    empty = gradients(9, 4, causal="lower_right")
    backward = [gradients(3, 5, Hq=2, causal=True), gradients(3, 5), empty]
    tried = [c.replace(q=c.q.replace(seed=n)) for c in (*RIGHT, MANY, large, *backward) for n in range(40)]
    attempts = [Attempt(everything, c, build(c), Result()) for c in tried]
    names = [[relation.name for relation in select_relations(each)] for each in attempts]
    assert names == [[relation.name for relation in select_relations(each)] for each in attempts]
    assert {name for few in names for name in few} == set(RELATIONS)


def test_a_large_case_has_few_relations():
    large = [case(Nq=200, Nk=200, Hq=2, Hk=2).replace(q=TensorSpec(seed=n)) for n in range(20)]
    counts = [len(select_relations(Attempt(describe(toys.right), c, build(c), Result()))) for c in large]
    assert 0 < sum(counts) < 20


def test_unknown_promise_is_refused():
    with pytest.raises(CannotRun, match="promises 'speed'"):
        promising(toys.plain, exact=("speed",))
