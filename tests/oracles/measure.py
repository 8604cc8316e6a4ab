"""Print the largest error/budget of right kernels by dtype: `python -m tests.oracles.measure --gradients`."""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress

import torch

from oracles import ORACLES, Comparison, Judgement, compare_answer
from oracles.vote import TRUTH
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from strategies.case import DTYPES
from strategies.draw import GRADIENT_VALUES
from strategies.features.causal import KINDS
from strategies.features.seqlens_k import PAST_END
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.values import FAMILIES
from tests.oracles.emulation import Backward, flash

LENGTHS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 400, 1025)
HEAD_DIMS = (1, 2, 3, 8, 16, 32, 33, 64, 64, 80, 128, 256)
SCALES = (None, None, None, 1.0, 0.05, 0.0, -0.25, -1.0)
TILES = (16, 32, 64)


def cases(count: int, seed: int) -> Iterator[AttentionCase]:
    """Random cases over every axis, the same for the same seed; half of them plain normal ones."""
    draw = random.Random(seed)
    for _ in range(count):
        Hk, Nk, Nq = draw.choice((1, 1, 2)), draw.choice(LENGTHS), draw.choice(LENGTHS)
        B, Hq = draw.choice((1, 1, 2)), Hk * draw.choice((1, 1, 2, 3))
        geometry = Geometry(B, Hq, Hk, Nq if Nq * Nk < 1 << 16 else 16, Nk, draw.choice(HEAD_DIMS))
        lengths = tuple(draw.choice((0, 1, Nk // 2, Nk)) for _ in range(B)) if draw.random() < 0.3 else None
        features = Features(draw.choice(KINDS), draw.choice(SCALES), lengths)
        plain = draw.random() < 0.5
        yield AttentionCase(
            geometry,
            draw.choice(DTYPES),
            features.replace(scale=None) if plain else features,
            *(_tensor(draw, plain) for _ in "qkv"),
            past_end=draw.choice(PAST_END) if lengths else "values",
        )


def with_gradients(count: int, seed: int) -> Iterator[AttentionCase]:
    """Add gradients to the cases, to one in three of those that are not plain through LSE too."""
    draw = random.Random(seed)
    for case in cases(count, seed):
        plain = is_plain(case)
        dO = TensorSpec("normal", draw.randrange(1 << 30))
        if not plain:
            dO = dO.replace(values=draw.choice(GRADIENT_VALUES), layout=draw.choice([*GRADIENT_LAYOUTS]))
        case = case.replace(operation="forward_backward", dO=dO)
        through_lse = not plain and draw.random() < 1 / 3
        features = case.features.replace(return_lse=True)
        yield case.replace(features=features, dLSE=TensorSpec("normal", dO.seed)) if through_lse else case


def _tensor(draw: random.Random, plain: bool) -> TensorSpec:
    seed = draw.randrange(1 << 30)
    return TensorSpec("normal", seed) if plain else TensorSpec(draw.choice([*FAMILIES]), seed, draw.choice([*LAYOUTS]))


def is_plain(case: AttentionCase) -> bool:
    """Whether all values are independent normal ones, and the scale the usual one."""
    specs = (case.q, case.k, case.v, case.dO)
    return case.features.scale is None and all(spec == TensorSpec(seed=spec.seed) for spec in specs)


def measure(case: AttentionCase, device: str, tile: int) -> Iterator[tuple[str, dict[str, Comparison]]]:
    """Error/budget of every tensor of every oracle and of the emulation on one case, by name."""
    problem = build(case, device)
    judgement = Judgement(problem)
    for name, oracle in ORACLES.items():
        if name != TRUTH and oracle.supports(problem):
            with suppress(NotImplementedError):
                yield name, compare_answer(oracle(problem), judgement)
    forward = flash(problem, tile)
    answer = Backward(tile)(problem, forward) if case.has_gradients else forward
    yield "emulation", compare_answer(answer, judgement)
    if is_plain(case):
        sharper = Judgement(problem, independent=True, truth_of=judgement)
        yield "emulation, independent", sharper.compare(answer.tensors)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gradients", action="store_true", help="backward passes too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst: dict[tuple[str, str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    drawn = with_gradients if arguments.gradients else cases
    for number, case in enumerate(drawn(arguments.cases, arguments.seed)):
        for name, tensors in measure(case, arguments.device, TILES[number % 3]):
            for tensor, found in tensors.items():
                key = (name, tensor, case.dtype)
                counts[key] += 1
                worst[key] = max(worst[key], found.ratio)
                if not found.ok:
                    print(f"{name}, {tensor}: {found}\n  {case!r}")
    print(table(worst, counts))


def table(worst: dict[tuple[str, str, str], float], counts: dict[tuple[str, str, str], int]) -> str:
    """Format the largest error/budget by oracle and tensor, with the number of cases, a column per dtype."""
    rows = dict.fromkeys((name, tensor) for name, tensor, _ in counts)
    lines = []
    for row in sorted(rows, key=lambda row: row[0]):
        cells = (
            f"{dtype} {worst[*row, dtype]:.3f} of {counts[*row, dtype]}" for dtype in DTYPES if counts[*row, dtype]
        )
        lines.append(f"{row[0]:24}{row[1]:5}" + "".join(f"{cell:24}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
