"""Every adapter converts rightly, with a stand-in for its package, and refuses what its package does not do."""

import importlib
import sys

import pytest
from hypothesis import HealthCheck, given, settings

from harness.errors import Refused
from harness.judging.judge import judge
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from harness.subject.loading import load
from harness.subject.shipped import requirement, shipped
from strategies import AttentionCase, Features, Geometry
from strategies.features import FEATURES
from tests.harness import fakes


@pytest.fixture
def adapter(monkeypatch):
    """Import an adapter over the stand-in for its package."""

    def adapted(package):
        for name, module in fakes.modules(package).items():
            monkeypatch.setitem(sys.modules, name, module)
        sys.modules.pop(f"harness.subject.adapters.{package.__name__}", None)
        subject = load(package.__name__)
        del sys.modules[f"harness.subject.adapters.{package.__name__}"]
        return subject

    return adapted


def outcome(subject, case):
    """Whether a case is right or refused; a failure fails the test."""
    try:
        tried = attempt(subject, case, "cpu")
    except Refused:
        return "refused"
    assert judge(tried, others=False) == []
    return "right"


@pytest.mark.parametrize("package", fakes.PACKAGES, ids=lambda package: package.__name__)
def test_an_adapter_is_right_by_its_packages_convention(adapter, package):
    subject = adapter(package)

    @settings(max_examples=25, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=subject.cases(max_length=40, history=False))
    def right_or_refused(case):
        outcome(subject, case)

    right_or_refused()


@pytest.mark.parametrize("package", fakes.PACKAGES, ids=lambda package: package.__name__)
def test_an_adapter_does_not_refuse_everything(adapter, package):
    subject = adapter(package)
    Hk, d = 1 if subject.gqa else 2, 64
    cases = [
        AttentionCase(Geometry(2, 2, Hk, N, N, d), subject.dtypes[0], Features(causal=causal))
        for N in (34, 64)
        for causal in FEATURES["causal"].taken_by(subject)
    ]
    assert "right" in {outcome(subject, case) for case in cases}


@pytest.mark.parametrize("backend", ["sdpa_math", "flex"])
def test_torchs_own_are_right(backend):
    subject = load(backend)
    for causal in FEATURES["causal"].taken_by(subject):
        case = AttentionCase(Geometry(B=2, Hq=2, Hk=1, Nq=3, Nk=5, d=8), features=Features(causal=causal))
        assert judge(attempt(subject, case, "cpu"), others=False) == []


def test_every_adapter_has_a_stand_in():
    adapters = {name for name in shipped() if requirement(name) is not None} - {"attn_gym"}
    assert {package.__name__ for package in fakes.PACKAGES} == adapters


SQUARE = Geometry(Nq=4, Nk=4, d=64)
REFUSED = {
    fakes.cuda_triton_multiarch_full: [(Geometry(Nq=4, Nk=5, d=64), False)],
    fakes.flash_attention_triton: [(SQUARE, False)],
    fakes.fla: [(SQUARE, False), (Geometry(Nq=4, Nk=5, d=64), True)],
    fakes.jvp_flash_attention: [(SQUARE, False), (Geometry(Nq=33, Nk=33, d=64), False)],
    fakes.aule: [(Geometry(Nk=0), False)],
    fakes.fastflash_attention: [(Geometry(Nq=4, Nk=5, d=64), False)],
}


@pytest.mark.parametrize(
    ("package", "geometry", "causal"),
    [(package, *asked) for package, several in REFUSED.items() for asked in several],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_a_package_does_not_do_is_refused(adapter, package, geometry, causal):
    subject = adapter(package)
    case = AttentionCase(geometry, dtype=subject.dtypes[0], features=Features(causal=causal))
    with pytest.raises(Refused):
        attempt(subject, case, "cpu")


@pytest.mark.parametrize("past_end", ["nan", "inf"])
def test_a_mask_refuses_what_it_would_let_through(past_end):
    case = AttentionCase(Geometry(Nk=3), features=Features(seqlens_k=(2,)), past_end=past_end)
    with pytest.raises(Refused, match="finite"):
        attempt(load("flex"), case, "cpu")


def test_xformers_lengths_are_lower_right_alone(adapter):
    case = AttentionCase(Geometry(Nk=3), features=Features(causal=True, seqlens_k=(2,)))
    with pytest.raises(Refused, match="lower-right"):
        attempt(adapter(fakes.xformers), case, "cpu")


def test_a_declaration_is_what_the_harness_reads():
    conventions = importlib.import_module("harness.subject.adapters._conventions")

    @conventions.declares(dtypes=("fp16",), max_head_dim=8)
    def attention(q, k, v):
        return q

    assert (describe(attention).dtypes, max(describe(attention).head_dims)) == (("fp16",), 8)
