"""`causal`: a query sees no key after its own position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from strategies.drawing import Draw, any_of
from strategies.features.registry import Axis, Declared, Feature, Variations, feature
from strategies.geometry import Geometry
from strategies.spec import require

CausalKind = Literal[False, True, "lower_right"]
KINDS: tuple[CausalKind, ...] = (False, True, "lower_right")
ALIGNMENTS: Mapping[str, CausalKind] = {"upper_left": True, "lower_right": "lower_right"}
"""The kinds by the alignment that a subject declares; names as in `torch.nn.attention.bias`."""


@feature
class Causal(Feature):
    """False, True (upper-left: query i sees keys j <= i) or "lower_right" (shifted by seqlen_k - Nq)."""

    name = "causal"
    default = False
    is_common = True
    anything = KINDS
    variations: ClassVar[Variations] = {"other_causal": lambda causal, geometry: not causal}

    def taken_by(self, subject: Declared) -> tuple[CausalKind, ...]:
        """The kinds of the alignments that the subject declares."""
        kinds = [kind for alignment, kind in ALIGNMENTS.items() if alignment in subject.alignments]
        return (False, *kinds) if self.name in subject.keywords else (False,)

    def narrow(self, asked: Any) -> tuple[CausalKind, ...]:
        """A single kind, or a collection of them."""
        kinds = (asked,) if isinstance(asked, bool | str) else tuple(asked)
        return tuple(kind for kind in KINDS if kind in kinds)

    def draw(self, draw: Draw, asked: tuple[CausalKind, ...], geometry: Geometry | None) -> CausalKind:
        """Draw one of the kinds."""
        kind: CausalKind = draw(any_of(asked, "causal"))
        return kind

    def box(self, asked: tuple[CausalKind, ...], geometry: Geometry) -> tuple[CausalKind, ...]:
        """All kinds."""
        return asked

    def check_form(self, value: object) -> None:
        """Raise ValueError unless it is one of the kinds."""
        is_kind = isinstance(value, bool) or value == "lower_right"
        require(is_kind, f"causal must be False, True or 'lower_right', not {value!r}.")

    def hides(self, subject: Declared) -> Iterable[str]:
        """Keys at the end; all keys of a row if the mask is aligned lower right."""
        kinds = self.taken_by(subject)
        return (*(["end hidden"] if len(kinds) > 1 else []), *(["no key"] if "lower_right" in kinds else []))

    def axes(self) -> tuple[Axis, ...]:
        """By kind."""
        return (Axis("causal", _possible, lambda case: [_class_of(case.features.causal)], has_histogram=True),)


def _class_of(causal: CausalKind) -> str:
    return {"False": "no", "True": "upper-left"}.get(str(causal), "lower-right")


def _possible(subject: Declared) -> Iterable[str]:
    return map(_class_of, Causal().taken_by(subject))
