"""Patches of attributes that can be undone, and the registry of mends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["correctness", "speed"]

# An object, its attribute and the attribute's value.
Change = tuple[Any, str, Any]

_ABSENT = object()


class Patches:
    """Replaced attributes, recorded so that all of them can be restored.

    `interpreter` is the module `triton.runtime.interpreter`; `per_launch` lists changes that apply only while a kernel
    runs, because Triton's compiler uses the same objects.
    """

    def __init__(self, interpreter: Any) -> None:
        self.interpreter = interpreter
        self.tl = interpreter.tl
        self.per_launch: list[Change] = []
        self._originals: list[Change] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace `owner.name`."""
        self._originals += replace_all([(owner, name, value)])

    def wrap(self, owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `wrapper(owner.name)`."""
        self.set(owner, name, wrapper(getattr(owner, name)))

    def undo(self) -> None:
        """Restore all replaced attributes."""
        restore_all(self._originals)


def replace_all(changes: list[Change]) -> list[Change]:
    """Set each attribute and return the original values, in the same order, for `restore_all`."""
    originals = []
    for owner, name, value in changes:
        originals.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)
    return originals


def restore_all(originals: list[Change]) -> None:
    """Undo `replace_all`, the last change first, and empty the list; an attribute that did not exist is deleted."""
    while originals:
        owner, name, original = originals.pop()
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


@dataclass(frozen=True)
class Mend:
    """One change to the interpreter: what it touches, and the minor versions of Triton that it was checked with."""

    name: str
    kind: Kind
    versions: frozenset[str]
    needs: tuple[str, ...]
    apply: Callable[[Patches], str | None]

    def obstacle(self, interpreter: Any) -> str | None:
        """Return why it cannot be applied: the first of `needs` that the interpreter module lacks."""
        for path in self.needs:
            owner = interpreter
            for name in path.split("."):
                owner = getattr(owner, name, _ABSENT)
                if owner is _ABSENT:
                    return f"{path} is missing"
        return None


KNOWN_VERSIONS = ("3.6", "3.7", "3.8", "3.9")
MENDS: list[Mend] = []


def mend_of(
    name: str, kind: Kind, needs: tuple[str, ...], versions: tuple[str, ...] = KNOWN_VERSIONS
) -> Callable[[Callable[[Patches], str | None]], Callable[[Patches], str | None]]:
    """Register a mend. `needs` are dotted names relative to `triton.runtime.interpreter`.

    The function applies the change, or returns why it does not.
    """

    def register(apply: Callable[[Patches], str | None]) -> Callable[[Patches], str | None]:
        MENDS.append(Mend(name, kind, frozenset(versions), needs, apply))
        return apply

    return register
