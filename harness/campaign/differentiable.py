"""Whether a subject is differentiable: as it declares or, where it does not declare it, as a small call shows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

from harness.errors import CannotRun
from harness.judging.examine import Examiner, Question
from harness.subject.declaration import Subject
from strategies import AttentionCase, Features, Geometry
from strategies.features import FEATURES

PROBE_LENGTHS = (64, 128, 256, 1024)
"""Rows and keys of the calls: a whole tile, and more where a subject takes no fewer."""

PROBE_SECONDS = 20.0
"""After which no further call is made: an interpreted kernel that refuses late is slow."""

PROBE_HEAD_DIM = 64
FOUND = "found"


def with_differentiability(subject: Subject, examiner: Examiner) -> Subject:
    """Return the subject with `differentiable` known where gradients are asked for.

    examiner: makes the small calls where the subject does not declare it. Raises CannotRun where gradients alone are
    asked for and there are none.
    """
    if subject.operation != "forward" and subject.differentiable is None:
        subject = _probe(subject, examiner)
    if not subject.operations:
        raise CannotRun(f"{subject.name} has no gradients to attest ({subject.differentiable_by}).")
    return subject


def _probe(subject: Subject, examiner: Examiner) -> Subject:
    """Ask small calls, then larger ones, until one returns; a call that does not end is the last."""
    why, until = "it takes no small call", time.monotonic() + PROBE_SECONDS
    for case in _calls(subject):
        if time.monotonic() >= until:
            break
        found = examiner.examine(Question(case, probes=True))
        if found.verdicts:
            sentence = found.verdicts[0].sentence
            why = f"on tensors that require a gradient, {sentence[0].lower()}{sentence[1:].rstrip('.')}"
            if found.verdicts[0].kind == "timed_out":
                break
        elif found.refused is not None:
            why = f"on tensors that require a gradient, it refuses every small call: {found.refused}"
        elif found.differentiable is not None:
            how = FOUND if found.differentiable else f"{FOUND}: O has no grad_fn"
            return replace(subject, differentiable=found.differentiable, differentiable_by=how)
    return replace(subject, differentiable=False, differentiable_by=f"{FOUND}: {why}")


def _calls(subject: Subject) -> Iterator[AttentionCase]:
    """Square calls, of which any subject takes one: of each mask, dtype, and d near to 64 or 128.

    The smallest are of one head and one batch entry; the larger ones have two of each for a subject that needs several.
    """
    nearest = sorted(subject.head_dims, key=lambda d: (abs(d - PROBE_HEAD_DIM), d))[:1]
    dims = [*nearest, *(d for d in (2 * PROBE_HEAD_DIM,) if d in subject.head_dims and d not in nearest)]
    for N, (causal, d, dtype) in itertools.product(
        PROBE_LENGTHS, itertools.product(FEATURES["causal"].taken_by(subject), dims, subject.dtypes)
    ):
        several = 2 if PROBE_LENGTHS[0] < N else 1
        geometry = Geometry(B=several, Hq=several, Hk=several, Nq=N, Nk=N, d=d)
        yield AttentionCase(geometry, dtype=dtype, features=Features(causal))
