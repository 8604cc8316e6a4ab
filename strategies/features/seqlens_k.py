"""`seqlens_k`: the keys of each batch entry; what lies past them is never read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from strategies.drawing import Draw, any_of
from strategies.features.registry import Axis, Declared, Feature, Variations, feature
from strategies.geometry import Geometry
from strategies.spec import require, require_int

PAST_END = ("values", "nan", "inf", "huge")
"""What a case may hold past the lengths: the family's own values, or one number instead."""

Lengths = tuple[int, ...]


@feature
class SeqlensK(Feature):
    """The number of keys of each batch entry, 0 to Nk; None means all. The call gets an int32 tensor (B,)."""

    name = "seqlens_k"
    needs_geometry = True
    is_common = True
    variations: ClassVar[Variations] = {
        # One key less in each batch entry, if the call has lengths.
        "other_lengths": lambda lengths, geometry: lengths and tuple(max(0, length - 1) for length in lengths),
    }

    def draw(self, draw: Draw, asked: Any, geometry: Geometry | None) -> Lengths | None:
        """Draw none, or for each batch entry all keys, all but one, one, none or some sixteenths."""
        assert geometry is not None
        if not draw(any_of((False, True), "seqlens_k")):
            return None
        Nk = geometry.Nk
        ends = (Nk, max(0, Nk - 1), min(1, Nk), 0)
        sixteenths = [draw(any_of(tuple(range(len(ends) + 16)), b)) for b in range(geometry.B)]
        return tuple(ends[n] if n < len(ends) else Nk * (n - len(ends)) // 16 for n in sixteenths)

    def box(self, asked: Any, geometry: Geometry) -> Iterable[Lengths | None]:
        """None, and every length."""
        return (None, *((n,) for n in range(geometry.Nk + 1)))

    def check(self, value: Any, geometry: Geometry) -> None:
        """Raise ValueError unless each batch entry has a length of 0 to Nk."""
        require(isinstance(value, tuple), f"seqlens_k must be a tuple or None, not {value!r}.")
        B = geometry.B
        require(len(value) == B, f"seqlens_k must hold one length for each of {B} batch entries, not {len(value)}.")
        for length in value:
            require_int("seqlens_k", length, 0, geometry.Nk)

    def fit(self, value: Lengths, geometry: Geometry) -> Lengths:
        """Limit lengths to Nk; an added batch entry is as long as the last one."""
        entries = (*value, *value[-1:] * (geometry.B - len(value)))[: geometry.B]
        return tuple(min(length, geometry.Nk) for length in entries)

    def part(self, value: Lengths, places: Mapping[str, slice]) -> Lengths:
        """Return the lengths of some batch entries, counted from the first key of the part."""
        keys = places.get("Nk", slice(None))
        first, last = keys.start or 0, keys.stop
        return tuple(max(0, (n if last is None else min(n, last)) - first) for n in value[places.get("B", slice(None))])

    def tensors(self, value: Lengths) -> Mapping[str, Tensor]:
        """The lengths as int32."""
        return {"seqlens_k": torch.tensor(value, dtype=torch.int32)}

    def of_arguments(self, arguments: Mapping[str, Any]) -> Lengths | None:
        """Return the lengths in the tensor that was passed."""
        given = arguments.get("seqlens_k")
        return None if given is None else tuple(given.tolist())

    def hides(self, subject: Declared) -> Iterable[str]:
        """Keys at the end, or all."""
        return ("end hidden", "no key") if self.taken_by(subject) else ()

    def axes(self) -> tuple[Axis, ...]:
        """By length, and by what lies past the end."""

        def where_taken(*classes: str) -> Any:
            return lambda subject: classes if self.taken_by(subject) else ()

        return (
            Axis("seqlens_k", where_taken("none given", "0", "some", "all"), _classes_of, has_histogram=True),
            Axis(
                "past the end",
                where_taken(*PAST_END),
                lambda c: [c.past_end] if self.is_on(c.features) else [],
            ),
        )


def _classes_of(case: Any) -> set[str]:
    lengths, Nk = case.features.seqlens_k, case.geometry.Nk
    if lengths is None:
        return {"none given"}
    return {"0" if n == 0 else "all" if n == Nk else "some" for n in lengths}
