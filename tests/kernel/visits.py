"""Counts the tiles that each program of a kernel visits, as Triton's interpreter runs it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from triton.runtime.interpreter import InterpreterBuilder

PRODUCTS = {"forward": 2, "dQ": 3, "dK dV": 4}
"""Matrix products of one visited tile, by what a kernel computes."""


@contextlib.contextmanager
def counted(kernel: str) -> Iterator[Counter[int]]:
    """Yield the tiles visited by the programs that run inside, by program id; a program that visits none is absent.

    kernel: one of `PRODUCTS`; no other kernel that multiplies may run inside.
    """
    products: Counter[int] = Counter()
    visits: Counter[int] = Counter()
    create_dot = InterpreterBuilder.create_dot

    def count(self: InterpreterBuilder, *arguments: object) -> object:
        products[self.grid_idx[0]] += 1
        return create_dot(self, *arguments)

    InterpreterBuilder.create_dot = count
    try:
        yield visits
    finally:
        InterpreterBuilder.create_dot = create_dot
    for program, count_of_products in products.items():
        visits[program], rest = divmod(count_of_products, PRODUCTS[kernel])
        assert rest == 0
