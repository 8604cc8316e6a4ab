"""Exact relations: statements about two calls (or one) that hold whatever the numbers are, and need no reference.

One relation a file, imported here so that each registers itself. Each is bit-exact for a subject that declares
(`"exact"` in `__flashattest__`) the property that its docstring names, and holds within twice the budget for others:

- deterministic: the same call gives the same bits, whatever was called before it; so do its gradients, however often
  and beside whichever others they are asked for, and O and LSE where no gradient is.
- batch_invariant: a batch entry, or a head, comes out alone as it does beside others.
- gqa_invariant: heads of K and V that a group shares give what they give when they are repeated.
- layout_invariant: strides, expansion and the alignment of memory change no bit.
- mask_invariant: what the hidden keys hold changes no bit, be it NaN or inf in a key that no query sees.
- scale_invariant: powers of two, and signs, that cancel between q and scale, or come out of V, change no bit,
  but where numbers are subnormal (`subnormals.py`).
- unit_weight: the weight of a row's only key is exactly 1.

What a subject promises of O and LSE it promises of gradients where it is deterministic, in the relations that are about
gradients alone; elsewhere these are held to twice their budget.

Two results are the same where they are equal as numbers (0 = -0) or both NaN.
"""

from importlib import import_module
from pkgutil import iter_modules

from harness.judging.relations.base import Base, Claim, Laid
from harness.judging.relations.registry import ALWAYS, BITS, RELATIONS, Relation, broken_claim, chosen, hold, relation

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ALWAYS",
    "BITS",
    "RELATIONS",
    "Base",
    "Claim",
    "Laid",
    "Relation",
    "broken_claim",
    "chosen",
    "hold",
    "relation",
]
