"""Relations: batch entries and heads do not affect each other."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import EVERYWHERE, Base, Claim
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt


def _is_shared(attempt: Attempt) -> bool:
    g = attempt.case.geometry
    return g.B * g.Hk > 1


@relation(exact="batch_invariant", when=_is_shared)
def alone_as_in_batch(base: Base) -> Iterator[Claim]:
    """One batch entry's queries of one head of K and V give the same alone as together with the others.

    Bit for bit if the order of sums does not depend on the size of the batch (no split of the keys to fill a device).
    """
    g = base.attempt.case.geometry
    for n in base.choices(range(g.B * g.Hk)):
        b, head = divmod(n, g.Hk)
        entry, one = slice(b, b + 1), slice(head, head + 1)
        group = slice(head * g.group, (head + 1) * g.group)
        alone = base.part({"B": entry, "Hq": group, "Hk": one})
        rows, keys = (entry, group, slice(None)), (entry, one, slice(None))
        what = f"Batch entry {b}, KV head {head} called alone"
        yield from base.same(alone, what, here=rows, keys_here=keys, keys_there=EVERYWHERE)


@relation(exact="gqa_invariant", when=lambda attempt: attempt.case.geometry.group > 1)
def repeated_kv(base: Base) -> Iterator[Claim]:
    """Heads of K and V repeated for each query head give the same as shared ones.

    Bit for bit if a query head's sums do not depend on how many heads share its keys.
    """
    group = base.attempt.case.geometry.group
    k, v = (t.repeat_interleave(group, dim=1) for t in (base.problem.k, base.problem.v))
    what = f"With each head of K and V repeated {group} times"
    yield from base.same(base.again(k=k, v=v), what, gradients=("dQ",))
