"""Measure load time, latency, memory and throughput of the setups that can be timed here.

Each has its own worker. Workers are opened one after another and sampled in turns; memory is read
before the first batch, so that it is the memory of single predictions. A turn during which the
machine was slower than at other times is measured again. A worker that fails ends alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np

from msd_deploy.errors import MsdError
from msd_deploy.views import View
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.latency import CONTROL_KERNEL, SamplingPlan, host_drift, interleaved
from msd_mobile_bench.runtimes.process import ModelWorker, WorkerError, WorkerProcess
from msd_mobile_bench.schema import Control

CONTROL_BAND = 1.1
"""A turn is measured again if the control kernel took longer than this times its fastest."""
_MOST_REPEATS = 2
_THROUGHPUT_ROUNDS = 2
_SINGLE_VIEW_SHARE = 1 / 3
Milliseconds = list[float]


@dataclass(slots=True)
class Timing:
    """What was measured of one setup.

    Attributes:
        load_time_ms: Of opening the model in a fresh process, its runtime loaded before.
        first_ms: Of the first inference.
        rss_before_load_bytes: Memory just before it was opened; None: not known of this runtime.
        batch_size: Rows of a batch.
        peak_rss_bytes: Peak memory during single predictions.
        control: The control kernel, before and after each turn, a list per round.
        latency: Single examples under each view, a list per round.
        batches: Batches.
        repeats: Turns that were measured again.
        unsteady_turns: Turns that the machine was slow in even so.
    """

    load_time_ms: float = 0.0
    first_ms: float = 0.0
    rss_before_load_bytes: int | None = None
    batch_size: int = 1
    peak_rss_bytes: int | None = None
    control: list[list[Milliseconds]] = field(default_factory=list)
    latency: dict[View, list[Milliseconds]] = field(
        default_factory=lambda: {view: [] for view in View}
    )
    batches: Milliseconds = field(default_factory=list)
    repeats: int = 0
    unsteady_turns: int = 0

    def control_p50(self) -> float:
        """Return the median of the control kernel over all turns, in milliseconds."""
        return float(np.median(np.concatenate([np.concatenate(turn) for turn in self.control])))

    def is_steady(self, number: int, fastest: float) -> bool:
        """Return whether the machine was about as fast in a turn as at its fastest.

        Args:
            number: Of the turn.
            fastest: The lowest median of the control kernel, in milliseconds.
        """
        slowest = max(float(np.median(side)) for side in self.control[number])
        return slowest <= CONTROL_BAND * fastest


def count_turns(setups: int, config: BenchConfig) -> int:
    """Return how often `measure_timing` calls on_turn, without turns that are repeated."""
    return setups * (1 + config.rounds + _THROUGHPUT_ROUNDS)


def measure_timing(
    workers: Sequence[ModelWorker],
    control: WorkerProcess,
    config: BenchConfig,
    *,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Timing | MsdError]:
    """Open every worker's model, then sample all of them in turns.

    Args:
        workers: Not opened yet; one that fails is ended.
        control: Times the control kernel, which is the same for all runtimes; not started yet.
        config: How often.
        on_turn: Called after each opening and each turn.

    Returns:
        The timing of each worker, or why there is none.

    Raises:
        ControlError: The control kernel cannot be timed.
    """
    control.start()
    turns = _Turns(workers, control, config, on_turn)
    for index in range(len(workers)):
        turns.take(index, turns.open)
    for number, order in enumerate(interleaved(len(workers), config.rounds)):
        for index in order:
            turns.take(index, turns.sample)
        turns.repeat_unsteady(number)
    turns.count_unsteady()
    for index in range(len(workers)):
        turns.attempt(index, turns.read_memory)
    for order in interleaved(len(workers), _THROUGHPUT_ROUNDS):
        for index in order:
            turns.take(index, turns.sample_batches)
    return turns.results


class ControlError(MsdError):
    """The process of the control kernel died or did not answer."""


class _Turns:
    """The workers, and what each has measured so far or why it failed.

    Args:
        workers: Not opened yet.
        control: Times the control kernel.
        config: How often.
        on_turn: Called after each turn.
    """

    def __init__(
        self,
        workers: Sequence[ModelWorker],
        control: WorkerProcess,
        config: BenchConfig,
        on_turn: Callable[[], None],
    ) -> None:
        self.results: list[Timing | MsdError] = [Timing() for _ in workers]
        self._workers, self._control = workers, control
        self._config, self._on_turn = config, on_turn
        self._plans = {
            view.value: asdict(_plan(view, config, wakes=at == 0)) for at, view in enumerate(View)
        }

    def take(self, index: int, step: Callable[[ModelWorker, Timing], None]) -> None:
        self.attempt(index, step)
        self._on_turn()

    def attempt(self, index: int, step: Callable[[ModelWorker, Timing], None]) -> None:
        timing = self.results[index]
        if isinstance(timing, MsdError):
            return
        try:
            step(self._workers[index], timing)
        except ControlError:  # no fault of this model, and nothing can be timed without it
            raise
        except MsdError as error:
            self.results[index] = error
            self._workers[index].kill()

    def open(self, worker: ModelWorker, timing: Timing) -> None:
        opened = worker.open()
        timing.load_time_ms = cast(float, opened["load_time_ms"])
        timing.rss_before_load_bytes = cast(int | None, opened["rss_before_load_bytes"])
        timing.first_ms = cast(float, worker.request("first")["first_ms"])
        timing.batch_size = self._config.batch_size if worker.setup.takes_batches else 1

    def sample(self, worker: ModelWorker, timing: Timing) -> None:
        before = self._time_control()
        planned = sum(
            plan["warm_up_seconds"] + plan["settle_seconds"] + plan["most_seconds"]
            for plan in self._plans.values()
        )
        answer = worker.request("latency", planned_seconds=planned, plans=self._plans)
        timing.control.append([before, self._time_control()])
        for view, samples in cast(dict[str, Milliseconds], answer["latency_ms"]).items():
            timing.latency[View(view)].append(samples)

    def _time_control(self) -> Milliseconds:
        try:
            return cast(Milliseconds, self._control.request("control")["control_ms"])
        except WorkerError as error:
            raise ControlError(error.what, where=error.where, fix=error.fix) from error

    def repeat_unsteady(self, number: int) -> None:
        """Measure the turns of a round again that the machine was slow in, twice at most."""
        for _ in range(_MOST_REPEATS):
            fastest = self._fastest_control()
            for index, timing in enumerate(self.results):
                if isinstance(timing, Timing) and not timing.is_steady(number, fastest):
                    self.attempt(index, self._again)

    def count_unsteady(self) -> None:
        """Count the turns that the machine was slow in, each compared with all."""
        fastest = self._fastest_control()
        for timing in self.results:
            if isinstance(timing, Timing):
                turns = range(len(timing.control))
                timing.unsteady_turns = sum(not timing.is_steady(at, fastest) for at in turns)

    def _fastest_control(self) -> float:
        """Return the lowest median of the control kernel around any turn, in milliseconds."""
        timings = [each for each in self.results if isinstance(each, Timing)]
        sides = (side for each in timings for turn in each.control for side in turn)
        return min((float(np.median(side)) for side in sides), default=0.0)

    def _again(self, worker: ModelWorker, timing: Timing) -> None:
        timing.control.pop()
        for rounds in timing.latency.values():
            rounds.pop()
        timing.repeats += 1
        self.sample(worker, timing)

    def read_memory(self, worker: ModelWorker, timing: Timing) -> None:
        timing.peak_rss_bytes = cast(int | None, worker.request("memory")["peak_rss_bytes"])

    def sample_batches(self, worker: ModelWorker, timing: Timing) -> None:
        answer = worker.request(
            "throughput",
            batch_size=timing.batch_size,
            batches=-(-self._config.batches // _THROUGHPUT_ROUNDS),
            most_seconds=self._config.most_seconds / self._config.rounds,
        )
        timing.batches += cast(Milliseconds, answer["batch_ms"])


def _plan(view: View, config: BenchConfig, *, wakes: bool) -> SamplingPlan:
    """Return what a round measures of a view: its share of the runs and of the seconds."""
    share = 1.0 if view is View.MULTIMODAL else _SINGLE_VIEW_SHARE
    return SamplingPlan(
        warm_up=config.warm_up,
        # A processor that was idle is slow at first.
        warm_up_seconds=config.warm_up_seconds if wakes else 0.0,
        settle_seconds=config.settle_seconds,
        runs=-(-config.runs // config.rounds),
        seconds=share * config.seconds / config.rounds,
        most_seconds=config.most_seconds / config.rounds,
    )


def summarize_control(timings: Sequence[Timing]) -> Control:
    """Summarize the control kernel over all turns of all setups."""
    medians = np.array(
        [[np.median(np.concatenate(turn)) for turn in timing.control] for timing in timings]
    )
    return {
        "kernel": CONTROL_KERNEL,
        "p50_ms_per_round": [round(float(value), 4) for value in np.median(medians, axis=0)],
        "host_drift": host_drift([float(value) for value in medians.flat]),
        "repeated_turns": sum(timing.repeats for timing in timings),
    }
