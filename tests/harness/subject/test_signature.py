"""A signature given for a function that has none, or whose keywords have other names."""

import pytest
import torch

from harness.cli.main import main
from harness.errors import CannotRun
from harness.judging.attest import attest
from harness.subject.declaration import describe
from harness.subject.loading import load
from harness.subject.signature import parse, split_signature, with_signature
from strategies import AttentionCase, Features, Geometry

SDPA = "torch.nn.functional:scaled_dot_product_attention"
OF_SDPA = "q, k, v, causal:is_causal=False, enable_gqa=True"


def test_a_builtin_without_a_signature_says_what_it_needs():
    with pytest.raises(CannotRun, match="--signature"):
        load(SDPA)


def test_a_builtin_runs_by_the_signature_given():
    subject = load(with_signature(SDPA, OF_SDPA))
    assert subject.keywords == {"causal"}
    attest(subject, AttentionCase(Geometry(Hq=4, Hk=2, Nq=3, Nk=3), features=Features(causal=True)))


def test_inputs_may_have_other_names_and_another_order():
    def attention(key, *, values, queries, is_causal):
        assert is_causal is False
        return torch.nn.functional.scaled_dot_product_attention(queries, key, values)

    name = f"{__name__}:test"
    sentence = "k, q:queries, v:values, causal:is_causal"
    signed = parse(sentence)
    assert signed.positional == ("k",)
    given = {"q": "Q", "k": "K", "v": "V"}
    assert signed.arguments(given) == {"queries": "Q", "values": "V", "is_causal": False}
    assert split_signature(with_signature(name, sentence)) == (name, sentence)
    assert "def subject(q, k, v, causal=False)" in signed.source("subject", "own")
    assert describe(attention, name).keywords == frozenset()


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("q, k", "lacks v"),
        ("q, k, v, mask", "'mask' is none of"),
        ("q, k, v, causal=f()", "is no signature"),
        ("q, k v", "is no signature"),
    ],
)
def test_a_signature_that_says_too_little_is_one_sentence(signature, why):
    with pytest.raises(CannotRun, match=why):
        parse(signature)


def test_a_campaign_saves_and_replays_with_the_signature(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def attention(q, k, v, masks):\n    return q * 0\n")
    signature = "q, k, v, causal:masks=False"
    asked = ["fuzz", "--subject", "own.py:attention", "--signature", signature, "--cases", "20", "--device", "cpu"]
    assert main([*asked, "--seed", "1"]) == 1
    (tmp_path / "regressions" / "own.attention").stat()
    capsys.readouterr()
    assert main(["replay", "--device", "cpu"]) == 1
    assert f"own.py:attention({signature})" in capsys.readouterr().out
