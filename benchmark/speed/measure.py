"""One row: each provider is bound, judged, and only then timed, all in turns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial

import torch

from speed.ceilings import Ceilings
from speed.clock import Clock, Run
from speed.judge import Judge, judge_of
from speed.passes import calls_of
from speed.providers import Provider, Refused
from speed.results import Outcome, Timed
from speed.rows import Inputs, Row, make_inputs
from speed.turns import BoundCall, Schedule, Spread, take_turns

_NOT_TAKEN = ("No available kernel", "No viable backend")
HOST_BATCHES = 9
PEERS_MAY = 8.0
"""Error/budget of a peer that is still timed. The budget is that of a kernel like ours: a peer that rounds in other

places too (its scores, sums of dV) is a few budgets off, a wrong mask or scale hundreds."""


@dataclass(frozen=True)
class Bench:
    """What rows are measured with. host: whether to time enqueueing too."""

    device: str
    clock: Clock
    schedule: Schedule
    ceilings: Ceilings
    seed: int = 0
    host: bool = False


def measure_row(preset: str, row: Row, providers: list[Provider], bench: Bench) -> Timed:
    """Time the providers on a row; one that refuses, fails or is wrong is reported so, without a time."""
    inputs = make_inputs(row, bench.device, bench.seed)
    judge = judge_of(row, inputs)
    outcomes: dict[str, Outcome] = {}
    calls: dict[str, BoundCall] = {}
    for provider in providers:
        outcomes[provider.name], bound = admit(provider, row, inputs, judge, bench.clock)
        if bound is not None:
            calls[provider.name] = bound
    for name, spread in take_turns(calls, bench.clock, bench.schedule).items():
        outcomes[name] = _with_rate(outcomes[name], spread, row, bench.ceilings)
    if bench.host:
        for name, bound in calls.items():
            outcomes[name] = replace(outcomes[name], host_ms=bound.within(partial(_host, bench.clock)))
    return Timed(preset, row, tuple(outcomes.values()))


def admit(provider: Provider, row: Row, inputs: Inputs, judge: Judge, clock: Clock) -> tuple[Outcome, BoundCall | None]:
    """Call a provider and judge it; its call comes back only where it is right."""
    most = 1.0 if provider.ours else PEERS_MAY
    if provider.too_large(row):
        return Outcome(provider.name, "too large", f"it is given {provider.scores:,} scores at most"), None
    try:
        with provider.around(), warnings.catch_warnings(action="ignore"):
            calls = calls_of(provider, row, inputs)
            if not (error := judge.error(calls.whole())) <= most:
                return _wrong(provider, error), None
            peak, timed = clock.peak_bytes(calls.whole), calls.timed()
            if row.backward and not (error := judge.error(timed())) <= most:
                return _wrong(provider, error), None
            return Outcome(provider.name, error=error, peak_bytes=peak), BoundCall(timed, provider.around)
    except Exception as problem:  # whatever a provider raises is its outcome
        return _failed(provider, problem), None


def _wrong(provider: Provider, error: float) -> Outcome:
    return Outcome(provider.name, "wrong", f"its error is {error:.3g} times its budget", error)


def _failed(provider: Provider, problem: Exception) -> Outcome:
    said = (str(problem).strip() or type(problem).__name__).split("\n")[0][:200]
    if isinstance(problem, (Refused, NotImplementedError)) or any(words in str(problem) for words in _NOT_TAKEN):
        return Outcome(provider.name, "refused", said)
    if isinstance(problem, torch.OutOfMemoryError):
        return Outcome(provider.name, "out of memory", said)
    return Outcome(provider.name, "failed", f"{type(problem).__name__}: {said}")


def _with_rate(outcome: Outcome, ms: Spread, row: Row, ceilings: Ceilings) -> Outcome:
    tflops = row.flops / ms.median * 1e-9
    ceiling = ceilings.matmul.get(row.dtype)
    return replace(outcome, ms=ms, tflops=tflops, share=tflops / ceiling if ceiling else None)


def _host(clock: Clock, call: Run) -> Spread | None:
    times = [clock.host(call) for _ in range(HOST_BATCHES)]
    known = [time for time in times if time is not None]
    return Spread.of([known]) if known else None
