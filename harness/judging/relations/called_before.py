"""Relation: earlier calls do not change a call."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.running.call import call_and_forget
from strategies import calls_before
from strategies.features import VARIATIONS


@relation(exact="deterministic", price=2)
def called_before(base: Base) -> Iterator[Claim]:
    """The same call gives the same after a call that differs in one thing: causal, scale, dtype, lengths, layout, ...

    Bit for bit for a deterministic subject. A case with a history finds differences beyond the budget; this relation
    finds those within it. A subject that differs without any call between is left to `same_call_twice`.
    """
    case, subject = base.attempt.case, base.attempt.subject
    if not torch.equal(base.again().O.nan_to_num(), base.O.nan_to_num()):
        return
    for name in base.choices(sorted(VARIATIONS)):
        for earlier in calls_before(case.replace(history=(name,))):
            call_and_forget(subject, earlier, base.attempt.device)
        what = f"After a call with {name.replace('_', ' ')}"
        yield from base.same(base.again(), what, kind="history_dependent")
