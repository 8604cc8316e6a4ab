"""Autotuning: `config="autotune"` measures every tile once for each bucket of problems, which takes seconds.

    from kernel import tuning

    tuning.save("tuned.json")  # in a process that has measured
    tuning.load("tuned.json")  # in one that shall not

Results are those of one device and one Triton, by name, so a file may hold those of several.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import torch
import triton
import triton.testing
from triton.errors import TritonError

from ..call.launch import on
from ..call.plan import P, Path, Plan
from ..call.problem import BackwardProblem, Problem

AUTOTUNE = "autotune"
FORMAT = 1
logger = logging.getLogger("flashattest.kernel")
Timer = Callable[[Callable[[], None]], float]
"""Milliseconds that a call takes."""
_CANNOT_RUN = (TritonError, NotImplementedError)


class Bucket(NamedTuple):
    """Problems that share a measurement. Nq, Nk and heads (B * Hq) are rounded up to powers of two."""

    device: str
    triton: str
    paths: str
    dtype: str
    d: int
    alignment: str | None
    seqlens: bool
    aligned: bool
    Nq: int
    Nk: int
    heads: int


class Choice(NamedTuple):
    """What a bucket runs: a path and its tile, as `config` spells them, and the milliseconds that it took."""

    config: str
    ms: float


TUNED: dict[Bucket, Choice] = {}
"""What has been measured or loaded."""


def bench(call: Callable[[], None]) -> float:
    """The median milliseconds of a call on the current device."""
    return float(triton.testing.do_bench(call, return_mode="median"))


def bucket_of(problem: Problem | BackwardProblem, paths: Sequence[Path[Any]]) -> Bucket:
    """The bucket of a problem that these paths take; a backward one names the gradients before its paths."""
    names, aligned = ",".join(path.name for path in paths), True
    if isinstance(problem, BackwardProblem):
        needs = " ".join(name for name, need in zip(("dQ", "dK", "dV"), problem.needs, strict=True) if need)
        names, aligned, forward = f"{needs}: {names}", problem.dO_aligned, problem.forward
    else:
        forward = problem
    return Bucket(
        *(device_name(forward.device), triton.__version__, names, str(forward.dtype).removeprefix("torch.")),
        *(forward.d, forward.alignment, forward.seqlens_dtype is not None, all(forward.aligned) and aligned),
        *(power_of_two(forward.Nq), power_of_two(forward.Nk), power_of_two(forward.heads)),
    )


def power_of_two(size: int) -> int:
    """The least power of two that is not below the size; 0 for 0."""
    return 1 << (size - 1).bit_length() if size else 0


def device_name(device: torch.device) -> str:
    """What the device calls itself, "NVIDIA H100 80GB HBM3"; a CPU is "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def tuned_plan(problem: P, paths: Sequence[Path[P]], timer: Timer = bench) -> Plan:
    """A plan that, each time it runs, looks up what was found for the problem's bucket, and measures if nothing was.

    paths: those that take the problem. A single candidate is not measured.
    """
    bucket = bucket_of(problem, paths)
    tiles = [(path, tile) for path in paths for tile in path.configs(problem)]
    makers = {f"{path.name}:{tile}": partial(path.plan, problem, tile) for path, tile in tiles}
    made: dict[str, Plan] = {}

    def plan(config: str) -> Plan:
        if config not in made:
            made[config] = makers[config]()
        return made[config]

    def run(*tensors: torch.Tensor | None) -> None:
        config, *others = makers
        if others:
            choice = TUNED.get(bucket)
            if choice is None or choice.config not in makers:
                with on(problem.device):
                    choice = measure(bucket, {name: partial(plan, name) for name in makers}, tensors, timer)
                TUNED[bucket] = choice
            config = choice.config
        plan(config).launch(*tensors)

    return Plan(AUTOTUNE, AUTOTUNE, run)


def measure(
    bucket: Bucket,
    candidates: Mapping[str, Callable[[], Plan]],
    tensors: Sequence[torch.Tensor | None],
    timer: Timer = bench,
) -> Choice:
    """Run every candidate and return the fastest; those that cannot run here are left out.

    RuntimeError while a CUDA graph is recorded, where nothing can be timed, and where no candidate runs.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            'config "autotune" has not measured this kind of problem yet and cannot while a CUDA graph is recorded: '
            "call it once before"
        )
    logger.info("measuring %d tiles for %s", len(candidates), bucket)
    found = []
    for config, make in candidates.items():
        try:
            plan = make()
            found.append(Choice(config, timer(partial(plan.launch, *tensors))))
        except _CANNOT_RUN as error:
            logger.info("%s does not run here: %s", config, error)
    if not found:
        raise RuntimeError(f"no tile of {', '.join(candidates)} runs on {bucket.device}")
    return min(found, key=lambda choice: choice.ms)


def save(path: str | os.PathLike[str]) -> int:
    """Write what has been measured or loaded to a JSON file and return how many buckets that is."""
    rows = [{**bucket._asdict(), **choice._asdict()} for bucket, choice in sorted(TUNED.items(), key=str)]
    pathlib.Path(path).write_text(json.dumps({"format": FORMAT, "rows": rows}, indent=1) + "\n")
    return len(rows)


def load(path: str | os.PathLike[str]) -> int:
    """Take over what `save` wrote, before what was measured here, and return how many buckets that is.

    A bucket names its device and its Triton, so those of others are kept and saved again, and never used here. A path
    or a tile that this version does not have is measured again. ValueError, in one sentence, for any other file.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"{path} must have the format {FORMAT} of tuning results, got {content['format']!r}")
        rows = dict(_read_row(row) for row in content["rows"])
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{path} must be a file of tuning results, as `kernel.tuning.save` writes it") from error
    TUNED.update(rows)
    foreign = sum(bucket.triton != triton.__version__ for bucket in rows)
    logger.info("%s: %d buckets, %d of them of another Triton", path, len(rows), foreign)
    return len(rows)


def _read_row(row: dict[str, object]) -> tuple[Bucket, Choice]:
    """A bucket and its choice; TypeError or KeyError where fields are missing, unknown or of another type."""
    types = {**get_type_hints(Bucket), **get_type_hints(Choice)}
    if row.keys() != types.keys() or not all(isinstance(row[name], legal) for name, legal in types.items()):
        raise TypeError(f"not a row of tuning results: {row}")
    values: dict[str, Any] = dict(row)
    choice = Choice(values.pop("config"), values.pop("ms"))
    return Bucket(**values), choice
