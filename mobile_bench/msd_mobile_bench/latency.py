"""Time predictions: warm-up, samples, a control kernel, and the order of the rounds.

"Benchmarks lie by order and heat": models are timed in interleaved turns, every other round in
reverse order, and a fixed computation, which should always take the same time, is timed before each
turn. Imports numpy and the standard library only, since every worker imports it.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from msd_mobile_bench.schema import Distribution

_NANOSECONDS_PER_MS = 1e6
_MIN_SAMPLES = 5
_CONTROL_SIZE, _CONTROL_SAMPLES, _CONTROL_WARM_UP = 192, 40, 5
CONTROL_KERNEL = f"numpy matrix product, float32 [{_CONTROL_SIZE}, {_CONTROL_SIZE}]"


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How many times something is timed.

    Attributes:
        warm_up: Least calls before the first sample.
        samples: Most samples.
        most_seconds: No sample begins after this many seconds, once there are five.
        warm_up_seconds: Least seconds of calls before the first sample.
    """

    warm_up: int
    samples: int
    most_seconds: float = float("inf")
    warm_up_seconds: float = 0.0


def time_calls(call: Callable[[int], object], plan: SamplingPlan) -> list[float]:
    """Time a call again and again.

    Python's garbage collector rests meanwhile: an app has none.

    Args:
        call: Takes the number of the call, counted from 0, warm-up included.
        plan: How often.

    Returns:
        Milliseconds of each sample.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _samples(call, plan, first=_warm_up(call, plan))
    finally:
        if was_enabled:
            gc.enable()


def _warm_up(call: Callable[[int], object], plan: SamplingPlan) -> int:
    """Call until the plan's calls and seconds are over; return how many calls it took."""
    begin, number = time.perf_counter_ns(), 0
    while number < plan.warm_up or (time.perf_counter_ns() - begin) / 1e9 < plan.warm_up_seconds:
        call(number)
        number += 1
    return number


def _samples(call: Callable[[int], object], plan: SamplingPlan, *, first: int) -> list[float]:
    samples: list[float] = []
    begin = time.perf_counter_ns()
    for number in range(first, first + plan.samples):
        start = time.perf_counter_ns()
        if len(samples) >= _MIN_SAMPLES and (start - begin) / 1e9 > plan.most_seconds:
            break
        call(number)
        samples.append((time.perf_counter_ns() - start) / _NANOSECONDS_PER_MS)
    return samples


def time_control_kernel() -> list[float]:
    """Time `CONTROL_KERNEL`, which depends on nothing but the machine's present speed.

    Returns:
        Milliseconds of each sample.
    """
    matrix = np.random.default_rng(0).standard_normal((_CONTROL_SIZE, _CONTROL_SIZE), np.float32)
    result = np.empty_like(matrix)
    plan = SamplingPlan(warm_up=_CONTROL_WARM_UP, samples=_CONTROL_SAMPLES)
    return time_calls(lambda number: np.matmul(matrix, matrix, out=result), plan)


def interleaved(count: int, rounds: int) -> list[list[int]]:
    """Return the order of the models in each round: forwards, then backwards, and so on."""
    forwards = list(range(count))
    return [forwards[:: 1 if number % 2 == 0 else -1] for number in range(rounds)]


def describe(rounds: Sequence[Sequence[float]]) -> Distribution:
    """Summarize samples that were taken in rounds; the samples are kept.

    Percentiles interpolate linearly between samples (numpy's default) over all rounds.
    """
    samples = np.concatenate([np.asarray(samples, np.float64) for samples in rounds])
    p50, p90, p99 = np.percentile(samples, [50, 90, 99])
    return {
        "p50": _rounded(p50),
        "p90": _rounded(p90),
        "p99": _rounded(p99),
        "mean": _rounded(samples.mean()),
        "p50_per_round": [_rounded(float(np.median(samples))) for samples in rounds],
        "samples": [[_rounded(sample) for sample in samples] for samples in rounds],
    }


def _rounded(milliseconds: float) -> float:
    """Round to 0.1 microseconds, below the resolution of the clock."""
    return round(float(milliseconds), 4)


def host_drift(control_medians: Sequence[float]) -> float:
    """Return how much slower the control kernel's slowest turn was than its fastest: 1 is none."""
    return round(max(control_medians) / min(control_medians), 4)
