"""The basic Hypothesis strategies that case draws are built from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]
"""The function that `st.composite` passes in: draws a value from a strategy."""


@cache
def any_of(elements: tuple[T, ...], site: object = "") -> st.SearchStrategy[T]:
    """`sampled_from`, cached by its elements: making a strategy costs more than drawing from it.

    Hypothesis derives most cases from earlier ones by copying one draw over another of the same elements (Nq over Nk,
    q's layout over k's), which leaves two cases in five unchanged. A site makes such draws distinct.
    """
    return st.sampled_from(tuple((site, element) for element in elements)).map(itemgetter(1))


@cache
def one_in(n: int) -> st.SearchStrategy[bool]:
    """True once in n draws; shrinks to False."""
    return st.sampled_from((False,) * (n - 1) + (True,))
