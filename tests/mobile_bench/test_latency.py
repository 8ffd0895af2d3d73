import gc

import numpy as np
import pytest

from msd_mobile_bench.latency import SamplingPlan, describe, host_drift, interleaved, time_calls


class _Clock:
    """A clock that a call moves forward."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    fake = _Clock()
    monkeypatch.setattr("time.perf_counter_ns", fake)
    return fake


def test_percentiles_interpolate_between_the_samples_of_all_rounds() -> None:
    summary = describe([[4.0, 1.0], [3.0, 2.0, 5.0]])
    # Sorted 1 2 3 4 5: the q-th percentile stands at position q / 100 * 4.
    assert summary["p50"] == 3.0
    assert summary["p90"] == pytest.approx(4 + 0.6)
    assert summary["p99"] == pytest.approx(4 + 0.96)
    assert summary["mean"] == 3.0


def test_percentiles_equal_a_calculation_by_hand_on_many_samples() -> None:
    samples = np.random.default_rng(0).gamma(2.0, 1.0, 237)
    ordered, summary = np.sort(samples), describe([samples.tolist()])
    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        position = quantile * (len(ordered) - 1)
        below, part = int(position), position - int(position)
        by_hand = ordered[below] * (1 - part) + ordered[below + 1] * part
        assert {**summary}[name] == pytest.approx(by_hand, abs=1e-4)


def test_a_summary_keeps_the_samples_and_the_median_of_each_round() -> None:
    summary = describe([[1.0, 3.0], [10.0]])
    assert summary["p50_per_round"] == [2.0, 10.0]
    assert summary["samples"] == [[1.0, 3.0], [10.0]]


def test_rounds_go_forwards_and_backwards_in_turns() -> None:
    assert interleaved(3, 4) == [[0, 1, 2], [2, 1, 0], [0, 1, 2], [2, 1, 0]]


def test_samples_are_milliseconds_and_leave_the_warm_up_out(clock: _Clock) -> None:
    def call(number: int) -> None:
        clock.now += 2_000_000 * (100 if number < 2 else 1)

    assert time_calls(call, SamplingPlan(warm_up=2, runs=3)) == [2.0, 2.0, 2.0]


def test_a_warm_up_lasts_its_seconds_too(clock: _Clock) -> None:
    def call(number: int) -> None:
        clock.now += 10_000_000 * (100 if number < 25 else 1)

    plan = SamplingPlan(warm_up=2, runs=3, warm_up_seconds=25.0)
    assert time_calls(call, plan) == [10.0, 10.0, 10.0]


def test_a_warm_up_goes_on_until_the_calls_are_steady(clock: _Clock) -> None:
    numbers: list[int] = []

    def call(number: int) -> None:
        numbers.append(number)
        clock.now += 1_000_000 * (200 if number < 15 else 100)

    plan = SamplingPlan(warm_up=2, runs=1, settle_seconds=60.0)
    assert time_calls(call, plan) == [100.0]
    # Of calls 11 to 20 four are slow, of 21 to 30 none: both have a median of 100 ms.
    assert numbers == list(range(31 + 1))


def test_a_warm_up_of_unsteady_calls_ends(clock: _Clock) -> None:
    numbers: list[int] = []

    def call(number: int) -> None:
        numbers.append(number)
        clock.now += 1_000_000 * (number + 1)

    time_calls(call, SamplingPlan(warm_up=2, runs=1, settle_seconds=0.1))
    assert sum(numbers[:-1]) + len(numbers) - 1 >= 100 > sum(numbers[:-2]) + len(numbers) - 2


def test_samples_last_their_seconds(clock: _Clock) -> None:
    def call(number: int) -> None:
        clock.now += 1_000_000 * (number + 1)

    whole = time_calls(call, SamplingPlan(0, 5, seconds=0.1))
    assert whole == [float(ms) for ms in range(1, 15)]  # 91 ms after 13 calls


def test_every_call_gets_its_number_so_that_inputs_vary() -> None:
    numbers: list[int] = []
    time_calls(numbers.append, SamplingPlan(warm_up=2, runs=3))
    assert numbers == [0, 1, 2, 3, 4]


def test_a_slow_model_is_sampled_less_but_five_times(clock: _Clock) -> None:
    def call(number: int) -> None:
        clock.now += 10**9

    assert len(time_calls(call, SamplingPlan(0, 100, most_seconds=0.5))) == 5
    assert len(time_calls(call, SamplingPlan(0, 100, most_seconds=8.0))) == 9


def test_the_garbage_collector_rests_and_is_woken_even_after_an_error() -> None:
    def call(number: int) -> None:
        assert not gc.isenabled()
        raise KeyError

    with pytest.raises(KeyError):
        time_calls(call, SamplingPlan(0, 1))
    assert gc.isenabled()


def test_host_drift_is_the_slowest_turn_over_the_fastest() -> None:
    assert host_drift([2.0, 1.0, 1.3]) == 2.0
    assert host_drift([1.5]) == 1.0


def test_a_summary_is_of_all_samples_and_keeps_some() -> None:
    samples = [float(ms) for ms in range(1, 15)]
    summary = describe([samples, [100.0]], kept=6)
    assert summary["samples"] == [[1.0, 7.0, 14.0], [100.0]]
    assert summary["count"] == 15
    assert summary["max"] == 100.0
    assert summary["p50"] == describe([samples, [100.0]])["p50"] == 8.0


def test_the_interval_of_a_median_covers_what_differs_between_rounds() -> None:
    random = np.random.default_rng(0)
    same = [random.normal(10, 0.1, 200).tolist() for _ in range(4)]
    shifted = [[sample + at for sample in samples] for at, samples in enumerate(same)]
    low, high = describe(same)["p50_interval"]
    assert 9.95 < low < describe(same)["p50"] < high < 10.05
    low, high = describe(shifted)["p50_interval"]
    assert low < 10.6
    assert high > 12.4
    assert describe([[2.0, 2.0], [2.0]])["p50_interval"] == [2.0, 2.0]
