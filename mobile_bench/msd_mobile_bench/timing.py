"""Measure load time, latency, memory and throughput of the variants that can be timed here.

Each has its own worker. Workers are opened one after another and sampled in turns; memory is read
before the first batch, so that it is the memory of single predictions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from msd_deploy.views import View
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.latency import CONTROL_KERNEL, host_drift, interleaved
from msd_mobile_bench.runtimes.process import WorkerProcess
from msd_mobile_bench.schema import Control

_THROUGHPUT_ROUNDS = 2
Milliseconds = list[float]


@dataclass(slots=True)
class Timing:
    """What was measured of one variant.

    Attributes:
        load_time_ms: Of opening the model in a fresh process, its runtime loaded before.
        rss_before_load_bytes: Memory just before that.
        batch_size: Rows of a batch.
        peak_rss_bytes: Peak memory during single predictions.
        control: The control kernel, a list per round.
        latency: Single examples under each view, a list per round.
        batches: Batches.
    """

    load_time_ms: float
    rss_before_load_bytes: int
    batch_size: int
    peak_rss_bytes: int = 0
    control: list[Milliseconds] = field(default_factory=list)
    latency: dict[View, list[Milliseconds]] = field(
        default_factory=lambda: {view: [] for view in View}
    )
    batches: Milliseconds = field(default_factory=list)


def count_turns(variants: int, config: BenchConfig) -> int:
    """Return how often `measure_timing` calls on_turn."""
    return variants * (1 + config.rounds + _THROUGHPUT_ROUNDS)


def measure_timing(
    workers: Sequence[WorkerProcess],
    config: BenchConfig,
    *,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Open every worker's model, then sample all of them in turns.

    Args:
        workers: Not opened yet.
        config: How often.
        on_turn: Called after each opening and each turn.

    Raises:
        MsdError: A model cannot be run.
    """
    timings = []
    for worker in workers:
        timings.append(_open(worker, config))
        on_turn()
    for order in interleaved(len(workers), config.rounds):
        for index in order:
            _sample_latency(workers[index], timings[index], config)
            on_turn()
    for worker, timing in zip(workers, timings, strict=True):
        timing.peak_rss_bytes = cast(int, worker.request("memory")["peak_rss_bytes"])
    for order in interleaved(len(workers), _THROUGHPUT_ROUNDS):
        for index in order:
            _sample_throughput(workers[index], timings[index], config)
            on_turn()
    return timings


def _open(worker: WorkerProcess, config: BenchConfig) -> Timing:
    opened = worker.open()
    return Timing(
        load_time_ms=cast(float, opened["load_time_ms"]),
        rss_before_load_bytes=cast(int, opened["rss_before_load_bytes"]),
        batch_size=config.batch_size if worker.variant.takes_batches else 1,
    )


def _sample_latency(worker: WorkerProcess, timing: Timing, config: BenchConfig) -> None:
    answer = worker.request(
        "latency",
        warm_up=config.warm_up,
        warm_up_seconds=config.warm_up_seconds,
        samples=config.samples,
        most_seconds=config.round_seconds,
    )
    timing.control.append(cast(Milliseconds, answer["control_ms"]))
    for view, samples in cast(dict[str, Milliseconds], answer["latency_ms"]).items():
        timing.latency[View(view)].append(samples)


def _sample_throughput(worker: WorkerProcess, timing: Timing, config: BenchConfig) -> None:
    answer = worker.request(
        "throughput",
        batch_size=timing.batch_size,
        batches=-(-config.batches // _THROUGHPUT_ROUNDS),
        most_seconds=config.round_seconds,
    )
    timing.batches += cast(Milliseconds, answer["batch_ms"])


def summarize_control(timings: Sequence[Timing]) -> Control:
    """Summarize the control kernel over all turns of all variants."""
    medians = np.array([[np.median(turn) for turn in timing.control] for timing in timings])
    return {
        "kernel": CONTROL_KERNEL,
        "p50_ms_per_round": [round(float(value), 4) for value in np.median(medians, axis=0)],
        "host_drift": host_drift([float(value) for value in medians.flat]),
    }
