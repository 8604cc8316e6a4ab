"""Saved failures of a toy subject, for the tests of what reads them."""

from harness.corpus.entries import Entry
from harness.judging.verdict import Verdict
from strategies import AttentionCase, Features, Geometry, build, checksum

CAUSAL = AttentionCase(Geometry(Nk=2), features=Features(causal=True))

TOY = """
from torch.nn.functional import scaled_dot_product_attention as sdpa

def attention(q, k, v, causal=False):
    return sdpa(q.double(), k.double(), v.double(), is_causal=causal).to(q.dtype)
"""
FAULTY_TOY = TOY.replace("is_causal=causal", "is_causal=False")


def entry_for(subject, case=CAUSAL, kind="wrong_values", check="values", **others):
    """An entry as a campaign would save it for a subject that failed on a case."""
    fields = {"subject": subject, "device": "cpu", "case": case, "checksum": checksum(build(case)), "versions": {}}
    return Entry(**(fields | {"verdict": Verdict(kind, check, "It was wrong.")} | others))
