"""HTML that is escaped by construction: every text is, save what `element` itself has made."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None

_BREAKS = re.compile(r"(?<=[(/_])(?=\w)|(?<=\.)(?=[A-Za-z_])")


def element(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """An element with its children one after the other; None is left out.

    Attributes: class_ is class, aria_label is aria-label; None and False are left out, True stands without a value.
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Iterable[Child]) -> Html:
    """Several children as one."""
    return Html("".join(escaped(child) for child in children if child is not None))


def escaped(text: str) -> Html:
    """The text with nothing left in it that HTML would read as its own."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def breakable(text: str) -> Html:
    """Escaped text that a narrow line breaks after a sign, sooner than within a word."""
    return Html("<wbr>".join(escaped(part) for part in _BREAKS.split(text)))


def _attribute(key: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
