"""Time predictions: warm-up, samples, a control kernel, and the order of the rounds.

"Benchmarks lie by order and heat": models are timed in interleaved turns, every other round in
reverse order, and a fixed computation, which should always take the same time, is timed before and
after each turn. Imports numpy and the standard library only, since every worker imports it.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_mobile_bench.schema import Distribution

_NANOSECONDS_PER_MS = 1e6
_MIN_SAMPLES = 5
_BLOCK, _STEADY = 10, 0.02
"""A warm-up is over when the medians of two successive blocks of calls differ by no more."""
_RESAMPLES = 1000
_CONTROL_SIZE, _CONTROL_SAMPLES, _CONTROL_WARM_UP = 192, 40, 5
CONTROL_KERNEL = f"numpy matrix product, float32 [{_CONTROL_SIZE}, {_CONTROL_SIZE}]"


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How long something is timed.

    Attributes:
        warm_up: Least calls before the first sample.
        runs: Least samples.
        warm_up_seconds: Least seconds of calls before the first sample.
        settle_seconds: Most seconds of warm-up while the calls still become faster or slower.
        seconds: Least seconds of samples.
        most_seconds: No sample begins after this many seconds, once there are five.
    """

    warm_up: int
    runs: int
    warm_up_seconds: float = 0.0
    settle_seconds: float = 0.0
    seconds: float = 0.0
    most_seconds: float = float("inf")


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
    """Call until the plan's calls and seconds are over and their time is steady; return how many.

    Slow calls end at `settle_seconds` without being steady.
    """
    begin = time.perf_counter_ns()
    took: list[int] = []
    elapsed = 0.0
    while (
        len(took) < plan.warm_up
        or elapsed < plan.warm_up_seconds
        or (elapsed < plan.settle_seconds and not _is_steady(took))
    ):
        start = time.perf_counter_ns()
        call(len(took))
        end = time.perf_counter_ns()
        took.append(end - start)
        elapsed = (end - begin) / 1e9
    return len(took)


def _is_steady(took: Sequence[int]) -> bool:
    """Return whether the last two blocks of calls had the same median, within 2 %."""
    if len(took) < 2 * _BLOCK:
        return False
    before, after = np.median(took[-2 * _BLOCK : -_BLOCK]), np.median(took[-_BLOCK:])
    return bool(abs(after - before) <= _STEADY * before)


def _samples(call: Callable[[int], object], plan: SamplingPlan, *, first: int) -> list[float]:
    samples: list[float] = []
    begin, elapsed = time.perf_counter_ns(), 0.0
    while len(samples) < plan.runs or elapsed < plan.seconds:
        if len(samples) >= _MIN_SAMPLES and elapsed > plan.most_seconds:
            break
        start = time.perf_counter_ns()
        call(first + len(samples))
        end = time.perf_counter_ns()
        samples.append((end - start) / _NANOSECONDS_PER_MS)
        elapsed = (end - begin) / 1e9
    return samples


def time_control_kernel() -> list[float]:
    """Time `CONTROL_KERNEL`, which depends on nothing but the machine's present speed.

    Returns:
        Milliseconds of each sample.
    """
    matrix = np.random.default_rng(0).standard_normal((_CONTROL_SIZE, _CONTROL_SIZE), np.float32)
    result = np.empty_like(matrix)
    plan = SamplingPlan(warm_up=_CONTROL_WARM_UP, runs=_CONTROL_SAMPLES)
    return time_calls(lambda number: np.matmul(matrix, matrix, out=result), plan)


def interleaved(count: int, rounds: int) -> list[list[int]]:
    """Return the order of the models in each round: forwards, then backwards, and so on."""
    forwards = list(range(count))
    return [forwards[:: 1 if number % 2 == 0 else -1] for number in range(rounds)]


def describe(rounds: Sequence[Sequence[float]], *, kept: int | None = None) -> Distribution:
    """Summarize samples that were taken in rounds.

    Percentiles interpolate linearly between samples (numpy's default) over all rounds.

    Args:
        rounds: Milliseconds.
        kept: Most samples in the summary, evenly spaced over each round; None: all. What is
            computed is of all samples in any case.
    """
    samples = np.concatenate([np.asarray(samples, np.float64) for samples in rounds])
    p50, p90, p95, p99 = np.percentile(samples, [50, 90, 95, 99])
    low, high = _median_interval(rounds)
    return {
        "p50": _rounded(p50),
        "p50_interval": [_rounded(low), _rounded(high)],
        "p90": _rounded(p90),
        "p95": _rounded(p95),
        "p99": _rounded(p99),
        "min": _rounded(samples.min()),
        "max": _rounded(samples.max()),
        "mean": _rounded(samples.mean()),
        "std": _rounded(samples.std()),
        "p50_per_round": [_rounded(float(np.median(samples))) for samples in rounds],
        "count": len(samples),
        "samples": [
            [_rounded(sample) for sample in _spaced(samples, kept and max(1, kept // len(rounds)))]
            for samples in rounds
        ],
    }


def _median_interval(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median, over rounds and samples.

    Samples of one round have the machine's state in common, so that rounds are drawn first, with
    replacement, and then samples of each (Davison and Hinkley 1997, section 3.8).
    """
    random = np.random.default_rng(0)
    medians = np.empty(_RESAMPLES)
    arrays = [_thinned(np.asarray(samples, np.float64)) for samples in rounds]
    for at in range(_RESAMPLES):
        drawn = [arrays[index] for index in random.integers(len(arrays), size=len(arrays))]
        medians[at] = np.median(np.concatenate([random.choice(each, len(each)) for each in drawn]))
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _spaced(samples: Sequence[float], count: int | None) -> Sequence[float]:
    """Return at most as many samples, evenly spaced from the first to the last."""
    if count is None or len(samples) <= count:
        return samples
    return [samples[at] for at in np.linspace(0, len(samples) - 1, count).astype(int)]


def _thinned(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most as many samples as there are resamples, evenly spaced."""
    return samples[:: -(-len(samples) // _RESAMPLES)]


def _rounded(milliseconds: float) -> float:
    """Round to 0.1 microseconds, below the resolution of the clock."""
    return round(float(milliseconds), 4)


def host_drift(control_medians: Sequence[float]) -> float:
    """Return how much slower the control kernel's slowest turn was than its fastest: 1 is none."""
    return round(max(control_medians) / min(control_medians), 4)
