"""A feature is two classes: three toys, defined only here, reach everything that handles cases.

`skip_third` hides every third key, `cap` maps scores to cap·tanh(S / cap), `tilt` adds a tensor of its own to them.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from harness.campaign.coverage import Coverage
from harness.cli.main import main
from harness.judging.examine import Question, examine
from harness.judging.relations import RELATIONS
from harness.judging.seen import seen_in
from harness.running.call import call
from harness.subject.declaration import describe
from oracles import ORACLES, Judgement, float64, vote
from oracles.features import MEANINGS, Mask, Score, meaning, visible, visible_keys
from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build, checksum
from strategies.drawing import any_of
from strategies.features import FEATURES, VARIATIONS, Feature, Role, feature
from strategies.spec import require


@pytest.fixture(autouse=True)
def toys():
    """Register the toys for a test, and unregister them afterwards."""
    registers = (FEATURES, VARIATIONS, MEANINGS)
    before = [dict(register) for register in registers]
    _register()
    yield
    for register, whole in zip(registers, before, strict=True):
        register.clear()
        register.update(whole)


def _register():
    @feature
    class SkipThird(Feature):
        """Hide keys j with j % 3 == skip_third."""

        name = "skip_third"

        def draw(self, draw, asked, geometry):
            return draw(any_of((0, 1, 2), "skip_third"))

        def check_form(self, value):
            require(value in (0, 1, 2), f"skip_third must be 0, 1 or 2, not {value!r}.")

        def box(self, asked, geometry):
            return (None, 0, 1, 2)

        def hides(self, subject):
            return ("keys between hidden",) if self.taken_by(subject) else ()

    @meaning("skip_third")
    class SkipThirdMask(Mask):
        def breaks(self, value):
            return ("prefix", "permutes_keys", "splits")

        @staticmethod
        def visible(given, at):
            return at.j % 3 != given

        @staticmethod
        def sees(given, row):
            return set(range(row.Nk)) - set(range(given, row.Nk, 3))

    @feature
    class Cap(Feature):
        """A cap on scores."""

        name = "cap"

        def draw(self, draw, asked, geometry):
            return draw(any_of((5.0, 1.0), "cap"))

    @meaning("cap")
    class CapScore(Score):
        def breaks(self, value):
            return ("shift_invariant", "independent")

        @staticmethod
        def score(given, S, at):
            return given * torch.tanh(S / given)

        @staticmethod
        def slope(given, S, at):
            return 1 - torch.tanh(S / given) ** 2

        def steepest(self, given, S, error, at):
            return self.slope(given, (S.abs() - error).clamp(min=0.0), at)

        @staticmethod
        def plain(given, s, row, keys):
            return given * np.tanh(s / given)

        @staticmethod
        def plain_slope(given, s, row, keys):
            return np.cosh(np.clip(s / given, -300, 300)) ** -2.0

        def rounds(self, given, S, made, at, arithmetic):
            return 8 * arithmetic.u * made.abs()

        def slope_error(self, given, S, error, at, arithmetic):
            return 2 * error / given + 16 * arithmetic.u

    @feature
    class Tilt(Feature):
        """A number added to the score of each key, (Hq, 1, Nk)."""

        name = "tilt"
        kind = TensorSpec

        def draw(self, draw, asked, geometry):
            return TensorSpec("normal", draw(any_of((0, 1), "tilt")))

        def roles(self, value):
            return {"tilt": Role(("Hq", "1", "Nk"), value, wants_grad=True)}

    @meaning("tilt")
    class TiltScore(Score):
        def breaks(self, value):
            return ("permutes_keys", "independent")

        @staticmethod
        def score(given, S, at):
            return S + given

        @staticmethod
        def plain(given, s, row, keys):
            return s + given[row.h, 0].numpy()[keys]


NAMES = ("skip_third", "cap", "tilt")
ALL = dict.fromkeys(NAMES, True)


def right(q, k, v, causal=False, scale=None, seqlens_k=None, return_lse=False, skip_third=None, cap=None, tilt=None):
    """Attention with the three toys by a plain formula in fp32."""
    B, Hq, Nq, d = q.shape
    Nk, dtype = k.shape[2], q.dtype
    i, j = torch.arange(Nq)[:, None], torch.arange(Nk)
    hidden = torch.zeros(B, 1, Nq, Nk, dtype=torch.bool)
    if seqlens_k is not None:
        past_end = j >= seqlens_k[:, None]
        hidden = hidden | past_end[:, None, None]
        k, v = (x.masked_fill(past_end[:, None, :, None], 0) for x in (k, v))
    k, v = (x.float().repeat_interleave(Hq // k.shape[1], 1) for x in (k, v))
    S = q.float() @ k.mT * (d**-0.5 if scale is None else scale)
    S = S if cap is None else cap * torch.tanh(S / cap)
    S = S if tilt is None else S + tilt
    hidden = hidden | (j > i) if causal else hidden
    hidden = hidden if skip_third is None else hidden | (j % 3 == skip_third)
    has_keys = ~hidden.all(-1, keepdim=True)
    S = S.masked_fill(hidden & has_keys, -torch.inf)
    O = torch.where(has_keys, S.softmax(-1) @ v, 0.0).to(dtype)
    return (O, torch.where(has_keys[..., 0], S.logsumexp(-1), -torch.inf)) if return_lse else O


def forgets(name):
    """The right function without one of the toys."""

    def attention(q, k, v, causal=False, seqlens_k=None, return_lse=False, skip_third=None, cap=None, tilt=None):
        asked = {"skip_third": skip_third, "cap": cap, "tilt": tilt} | {name: None}
        return right(q, k, v, causal, None, seqlens_k, return_lse, **asked)

    return attention


QUICK = settings(
    max_examples=60,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CASES = {"max_work": 1 << 9, "history": False, "gradients": True}


def all_on(**others):
    return Features(skip_third=1, cap=5.0, tilt=TensorSpec("normal", 1), **others)


def drawn_cases(**narrower):
    """Cases with the toys, which are registered when the first one is drawn."""
    return st.deferred(lambda: attention_cases(**ALL, **narrower))


def test_cases_are_drawn_with_each_pair_of_toys_and_shrink_to_none():
    drawn = set()

    @settings(QUICK, max_examples=600, derandomize=True)
    @given(drawn_cases(max_work=16))
    def collect(case):
        drawn.add(tuple(name for name in case.features.asked() if name in NAMES))

    collect()
    assert {(), *((name,) for name in NAMES), ("skip_third", "cap"), ("skip_third", "tilt"), ("cap", "tilt")} <= drawn
    shrinking = settings(QUICK, max_examples=600, derandomize=True, phases=[Phase.generate, Phase.shrink])
    smallest = find(attention_cases(**ALL), lambda case: case.features.skip_third is not None, settings=shrinking)
    assert smallest == AttentionCase(features=Features(skip_third=0))


def test_a_case_prints_and_is_saved_with_its_toys():
    case = AttentionCase(Geometry(Nk=4), features=all_on())
    names = {"AttentionCase": AttentionCase, "Features": Features, "Geometry": Geometry, "TensorSpec": TensorSpec}
    assert eval(repr(case), names) == case
    assert AttentionCase.from_json(case.to_json()) == case
    with pytest.raises(ValueError, match="skip_third must be 0, 1 or 2, not 3"):
        Features(skip_third=3)


def test_the_checksum_covers_what_a_toy_brings():
    plain = AttentionCase(Geometry(Nk=4))
    tilted = [plain.replace(features=Features(tilt=TensorSpec("normal", seed))) for seed in (0, 1)]
    assert len({checksum(build(case)) for case in (plain, *tilted)}) == 3


@QUICK
@given(case=drawn_cases(**CASES))
def test_every_oracle_agrees_with_the_truth(case):
    votes = vote(Judgement(build(case)))
    assert {"naive_fp32", "numpy64"} <= set(votes)
    assert {name: found.ratio for name, found in votes.items() if not found.ok} == {}


def test_an_oracle_that_cannot_map_scores_is_not_asked():
    asked = [build(AttentionCase(Geometry(Nk=4), features=f)) for f in (Features(skip_third=1), Features(cap=1.0))]
    assert [ORACLES["sdpa_math"].supports(problem) for problem in asked] == [True, False]


def test_the_mask_says_the_same_to_torch_and_to_numpy64():
    for Nk in range(7):
        for value in (0, 1, 2):
            problem = build(AttentionCase(Geometry(Nk=Nk), features=Features(skip_third=value)))
            rows = torch.nonzero(visible(problem).expand(1, 1, 1, Nk)[0, 0, 0]).flatten().tolist()
            assert visible_keys(problem, 0, 0, 0) == rows


@QUICK
@given(case=drawn_cases(**CASES, causal=[False, True]))
def test_a_right_function_is_within_its_budget_and_holds_every_relation(case):
    found = examine(describe(right), Question(case, also=frozenset(RELATIONS)), "cpu")
    assert [verdict.sentence for verdict in found.verdicts] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_function_that_forgets_a_toy_fails_and_no_oracle_does(name):
    subject = describe(forgets(name))
    case = AttentionCase(Geometry(Nq=2, Nk=5, d=4), features=all_on(return_lse=True))
    found = examine(subject, Question(case, votes=True), "cpu")
    assert [verdict.kind for verdict in found.verdicts][:1] == ["wrong_values"]
    assert found.verdicts[0].votes["odd one out"] == "the subject"


def test_a_campaign_finds_shrinks_saves_and_scripts_a_forgotten_toy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(SUBJECT)
    arguments = ["--subject", "toy.py:attention", "--corpus", "corpus", "--json", "out.json", "--seed", "0"]
    assert main(["fuzz", *arguments, "--cases", "300"]) == 1
    assert "skip_third=" in capsys.readouterr().out
    (saved,) = (tmp_path / "corpus").rglob("*.json")
    assert '"skip_third"' in saved.read_text()
    assert main(["replay", str(saved), "--corpus", "corpus"]) == 1
    capsys.readouterr()
    assert main(["corpus", "script", str(saved)]) == 0
    (tmp_path / "script.py").write_text(capsys.readouterr().out)
    ran = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "AssertionError: O[" in ran.stderr, ran.stderr
    assert main(["report", "out.json", "--output", "report.html"]) == 0
    assert "skip_third=" in (tmp_path / "report.html").read_text()


SUBJECT = '''
import torch


def attention(q, k, v, skip_third=None):
    """Forgets skip_third."""
    k, v = (x.float().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return ((q.float() @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).to(q.dtype)
'''


def test_a_gradient_may_be_asked_of_the_tensor_that_a_toy_brings():
    asked = {"operation": "forward_backward", "needs_grad": ("q", "tilt")}
    case = AttentionCase(Geometry(Nq=2, Nk=5, d=4), features=all_on(), **asked)
    returned = call(describe(right), case, build(case))
    assert {name: tensor.shape for name, tensor in returned.gradients.items()} == {
        "dQ": (1, 1, 2, 4),
        "dTilt": (1, 1, 5),
    }
    with pytest.raises(ValueError, match="needs_grad must be one of"):
        case.replace(features=Features())


def test_coverage_counts_the_toys_and_the_rows_that_they_leave():
    case = AttentionCase(Geometry(Nq=2, Nk=7), features=Features(skip_third=1))
    covered = Coverage()
    covered.add(case, seen_in(float64(build(case))))
    assert covered.hits["skip_third"] == {"on": 1}
    assert covered.hits["masked rows"] == {"keys between hidden": 1}
    missed = covered.missed(describe(forgets("cap")))
    assert (missed["skip_third"], missed["cap"]) == (["off"], ["on"])
