"""Exact relations: statements about two calls (or one) that hold for any numbers, and need no reference.

Each relation registers itself when it is imported here. It is bit-exact for a subject that declares (`"exact"` in
`__flashattest__`) the property that the relation names, and holds within twice the budget for others:

- deterministic: the same call gives the same bits, whatever was called before it; so do its gradients, however often
  they are asked for and together with any others, and O and LSE with and without gradients.
- batch_invariant: a batch entry, or a head, gives the same alone as together with others.
- gqa_invariant: heads of K and V that a group shares give the same as repeated heads.
- layout_invariant: strides, expansion and the alignment of memory change no bit.
- mask_invariant: the contents of hidden keys change no bit, not even NaN or inf in a key that no query sees.
- scale_invariant: powers of two, and signs, that cancel between q and scale, or factor out of V, change no bit,
  unless numbers are subnormal (`subnormals.py`).
- unit_weight: the weight of a row's only key is exactly 1.

A property of O and LSE covers gradients only in the relations that are about gradients alone, and only for a
deterministic subject; elsewhere gradients must agree within twice their budget.

Two results are the same if they are equal as numbers (0 = -0) or both NaN.
"""

from importlib import import_module
from pkgutil import iter_modules

from harness.judging.relations.base import Base, Claim, LaidOut
from harness.judging.relations.registry import (
    ALWAYS_EXACT,
    BITS,
    RELATIONS,
    Relation,
    check_relations,
    failed_claim,
    relation,
    select_relations,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ALWAYS_EXACT",
    "BITS",
    "RELATIONS",
    "Base",
    "Claim",
    "LaidOut",
    "Relation",
    "check_relations",
    "failed_claim",
    "relation",
    "select_relations",
]
