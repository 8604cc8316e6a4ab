"""Print the largest error/budget of right kernels by dtype: `python -m tests.oracles.measure --cases 2000`."""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator

import torch

from oracles import ORACLES, Comparison, float64, forward_budget, hold, vote
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from strategies.case import CAUSAL_KINDS, DTYPES, PAST_END
from strategies.layouts import LAYOUTS
from strategies.values import FAMILIES
from tests.oracles.emulation import flash

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
        features = Features(draw.choice(CAUSAL_KINDS), draw.choice(SCALES), lengths)
        plain = draw.random() < 0.5
        yield AttentionCase(
            geometry,
            draw.choice(DTYPES),
            features.replace(scale=None) if plain else features,
            *(_tensor(draw, plain) for _ in "qkv"),
            past_end=draw.choice(PAST_END) if lengths else "values",
        )


def _tensor(draw: random.Random, plain: bool) -> TensorSpec:
    seed = draw.randrange(1 << 30)
    return TensorSpec("normal", seed) if plain else TensorSpec(draw.choice([*FAMILIES]), seed, draw.choice([*LAYOUTS]))


def measure(case: AttentionCase, device: str, tile: int) -> Iterator[tuple[str, Comparison]]:
    """Error/budget of every oracle and of the emulation on one case, by name."""
    problem = build(case, device)
    truth = float64(problem)
    yield from vote(problem, truth, forward_budget(problem, truth)).items()
    answer = flash(problem, tile)
    yield "emulation", hold(answer, problem, truth)
    plain = all(spec == TensorSpec(seed=spec.seed) for spec in (case.q, case.k, case.v))
    if plain and case.features.scale is None:
        sharper = forward_budget(problem, truth, independent=True)
        yield "emulation, independent", hold(answer, problem, truth, sharper)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst: dict[tuple[str, str], tuple[float, AttentionCase]] = defaultdict(lambda: (0.0, AttentionCase()))
    held: dict[tuple[str, str], int] = defaultdict(int)
    for number, case in enumerate(cases(arguments.cases, arguments.seed)):
        for name, found in measure(case, arguments.device, TILES[number % 3]):
            held[name, case.dtype] += 1
            worst[name, case.dtype] = max(worst[name, case.dtype], (found.ratio, case), key=lambda pair: pair[0])
            if not found.ok:
                print(f"{name}: {found}\n  {case!r}")
    for name in [*ORACLES, "emulation", "emulation, independent"]:
        row = (f"{worst[name, dtype][0]:.3f} of {held[name, dtype]}" for dtype in DTYPES if held[name, dtype])
        print(f"{name:24}", *(f"{cell:16}" for cell in row))


if __name__ == "__main__":
    main()
