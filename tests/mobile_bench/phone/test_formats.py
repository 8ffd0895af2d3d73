"""What the runtimes' tools print, in every form that was published."""

from collections.abc import Callable
from pathlib import Path

import pytest

from msd_deploy.errors import ArtifactError
from msd_mobile_bench.phone.formats import (
    Timings,
    read_benchmark_model,
    read_executor_runner,
    read_onnxruntime_perf_test,
    read_perf_test_samples,
)
from tests.mobile_bench.phone import samples

LOG = Path("logs/student-onnx-fp32-image-1.log")
MIB = 1 << 20


def test_perf_test_of_2020_has_no_blank_behind_its_colons() -> None:
    found = read_onnxruntime_perf_test(samples.PERF_TEST_2020, LOG)
    assert (found.mean_ms, found.count, found.load_ms) == (12.5, 4, 1500.0)
    assert found.first_ms is None
    assert found.percentiles_ms == {}
    assert found.memory_bytes == {}


def test_perf_test_of_version_1_3_states_its_memory() -> None:
    found = read_onnxruntime_perf_test(samples.PERF_TEST_PHONE, LOG)
    assert (found.mean_ms, found.count, found.load_ms) == (12.5, 4, 125.0)
    assert found.memory_bytes == {"peak": 158171136}


def test_perf_test_of_2019_has_other_names() -> None:
    found = read_onnxruntime_perf_test(samples.PERF_TEST_2019, LOG)
    assert (found.mean_ms, found.count, found.load_ms) == (12.5, 4, None)
    assert (found.min_ms, found.max_ms) == pytest.approx((11.5, 15.0))
    assert found.percentiles_ms == pytest.approx(
        {"p50": 12.0, "p90": 15.0, "p95": 15.0, "p99": 15.0, "p999": 15.0}
    )


def test_perf_test_of_today_keeps_seconds_and_milliseconds_apart() -> None:
    found = read_onnxruntime_perf_test(samples.PERF_TEST_NOW, LOG)
    assert (found.mean_ms, found.count) == (12.5, 4)
    assert (found.load_ms, found.first_ms) == (125.0, 16.0)
    assert (found.min_ms, found.max_ms) == pytest.approx((11.5, 15.0))
    assert found.percentiles_ms["p50"] == pytest.approx(12.0)
    assert found.memory_bytes == {"peak": 27112243}


@pytest.mark.parametrize(
    ("content", "unit"),
    [(samples.PERF_TEST_RESULT, 1.0), (samples.PERF_TEST_RESULT, 1e9)],
    ids=["seconds", "nanoseconds"],
)
def test_a_result_file_has_every_sample_in_its_order(content: str, unit: float) -> None:
    """Nanoseconds: performance_result.h of microsoft/onnxruntime at 937adb9e."""
    for seconds in ("0.0150", "0.0120", "0.0115", "0.015", "0.012"):
        content = content.replace(f",{seconds},", f",{float(seconds) * unit:.10g},")
    found = read_perf_test_samples(content, LOG, 12.5)
    assert found == pytest.approx((15.0, 12.0, 11.5, 11.5))


@pytest.mark.parametrize(
    ("content", "mean"),
    [("", 12.5), (samples.PERF_TEST_RESULT, 99.0), ("a,b,c,d,e\n", 12.5)],
    ids=["empty", "another-mean", "no-number"],
)
def test_a_result_file_that_is_none_is_an_error(content: str, mean: float) -> None:
    with pytest.raises(ArtifactError, match=r"image-1\.log"):
        read_perf_test_samples(content, LOG, mean)


def test_benchmark_model_counts_the_timed_runs_and_not_the_warm_up() -> None:
    found = read_benchmark_model(samples.BENCHMARK_2020, LOG)
    assert (found.count, found.mean_ms) == (50, pytest.approx(33.2094))
    assert (found.load_ms, found.first_ms) == pytest.approx((0.855, 49.06))
    assert found.warm_up_ms == pytest.approx(34.8251)
    assert (found.min_ms, found.max_ms, found.std_ms) == pytest.approx((32.5, 36.0, 0.51))
    assert found.memory_bytes == {"increase_init": 0, "increase": 12.5 * MIB}
    assert found.samples_ms == ()


def test_benchmark_model_of_today_has_prefixes_and_percentiles() -> None:
    found = read_benchmark_model(samples.BENCHMARK_NOW, LOG)
    assert (found.count, found.mean_ms) == (50, pytest.approx(4.0505))
    assert found.max_ms == pytest.approx(5.2)
    assert found.percentiles_ms == pytest.approx({"p5": 3.95, "p50": 4.04, "p95": 4.2})
    assert found.memory_bytes == {
        "increase_init": 3.75 * MIB,
        "increase": 12.1875 * MIB,
        "peak": 14.5 * MIB,
    }
    assert found.used_inputs


def test_benchmark_model_is_read_from_logcat_too() -> None:
    found = read_benchmark_model(samples.BENCHMARK_LOGCAT, LOG)
    assert (found.count, found.mean_ms) == (50, pytest.approx(33.2094))
    assert found.load_ms == pytest.approx(126.059)
    assert found.percentiles_ms["p50"] == pytest.approx(33.1)


def test_benchmark_model_of_2018_has_other_names() -> None:
    found = read_benchmark_model(samples.BENCHMARK_2018, LOG)
    assert (found.count, found.mean_ms) == (50, pytest.approx(66.7676))
    assert (found.load_ms, found.warm_up_ms) == pytest.approx((9.933, 76.6059))
    assert found.first_ms is None


def test_a_single_run_has_its_value_alone() -> None:
    found = read_benchmark_model(samples.BENCHMARK_ONE_RUN, LOG)
    assert (found.count, found.mean_ms) == (1, pytest.approx(637.079))
    assert (found.min_ms, found.max_ms) == pytest.approx((637.079, 637.079))
    assert found.load_ms == pytest.approx(9992.42)


def test_the_tool_for_compiled_models_prints_milliseconds() -> None:
    found = read_benchmark_model(samples.COMPILED_MODEL, LOG)
    assert (found.count, found.load_ms, found.first_ms) == (50, 23.73, 9.0)
    assert found.mean_ms == pytest.approx(4.0505)  # not 4.05: the line before has more digits
    assert found.memory_bytes == {
        "increase_init": 3.5 * MIB,
        "increase": 12.25 * MIB,
        "peak": 14.5 * MIB,
    }
    assert not found.used_inputs


def test_its_block_alone_is_enough() -> None:
    block = samples.COMPILED_MODEL.partition("==========")[2]
    found = read_benchmark_model(block, LOG)
    assert (found.count, found.mean_ms, found.min_ms, found.std_ms) == (50, 4.05, 3.9, 0.1)


def test_executor_runner_of_2024_has_stamps_alone() -> None:
    found = read_executor_runner(samples.RUNNER_2024, LOG)
    assert (found.count, found.mean_ms) == (1, pytest.approx(1250.0))
    assert found.samples_ms == ()


def test_stamps_may_pass_midnight() -> None:
    text = samples.RUNNER_2024.replace("00:00:00.4", "23:59:59.9").replace(
        "00:00:01.6", "00:00:00.1"
    )
    assert read_executor_runner(text, LOG).mean_ms == pytest.approx(250.0)


def test_executor_runner_of_2025_has_a_total() -> None:
    found = read_executor_runner(samples.RUNNER_2025, LOG)
    assert (found.count, found.mean_ms, found.load_ms) == (4, 12.5, None)
    assert found.samples_ms == ()


@pytest.mark.parametrize("text", [samples.RUNNER_2026, samples.RUNNER_LOGCAT])
def test_executor_runner_of_2026_has_every_iteration(text: str) -> None:
    found = read_executor_runner(text, LOG, 4712)
    assert (found.count, found.mean_ms, found.load_ms) == (4, 12.5, 125.25)
    assert found.samples_ms == (15.0, 12.0, 11.5, 11.5)
    assert (found.first_ms, found.min_ms, found.max_ms) == (15.0, 11.5, 15.0)


def test_lines_that_logcat_dropped_leave_the_total() -> None:
    lines = samples.RUNNER_LOGCAT.splitlines(keepends=True)
    text = "".join(line for line in lines if "Iteration 3" not in line)
    found = read_executor_runner(text, LOG, 4712)
    assert (found.count, found.mean_ms, found.samples_ms) == (4, 12.5, ())


def test_a_process_number_that_was_used_before_does_not_count_twice() -> None:
    before = samples.RUNNER_LOGCAT.replace("15.000000", "1500.000000")
    found = read_executor_runner(before + samples.RUNNER_LOGCAT, LOG, 4712)
    assert found.samples_ms == (15.0, 12.0, 11.5, 11.5)


def test_qualcomms_runner_states_all_runs() -> None:
    found = read_executor_runner(samples.RUNNER_QNN, LOG)
    assert (found.count, found.mean_ms) == (100, pytest.approx(2.14295))


@pytest.mark.parametrize(
    "read", [read_onnxruntime_perf_test, read_benchmark_model, read_executor_runner]
)
@pytest.mark.parametrize(
    "text",
    ["", "Segmentation fault\n", samples.RUNNER_STDOUT, "Average inference time cost: nan ms\n"],
    ids=["empty", "crash", "tensors", "nan"],
)
def test_an_unknown_output_is_an_error_that_names_the_log(
    read: Callable[[str, Path], Timings], text: str
) -> None:
    with pytest.raises(ArtifactError, match=r"student-onnx-fp32-image-1\.log: has no"):
        read(text, LOG)


@pytest.mark.parametrize("place", range(1, 6))
def test_an_output_that_was_cut_has_no_mean(place: int) -> None:
    cut = samples.BENCHMARK_NOW[: len(samples.BENCHMARK_NOW) * place // 10]
    with pytest.raises(ArtifactError, match="has no average latency"):
        read_benchmark_model(cut, LOG)


def test_a_latency_without_a_known_unit_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="no unit of time that is known"):
        read_onnxruntime_perf_test("Average inference time cost: 12.5 fortnights\n", LOG)


def test_two_averages_that_differ_are_an_error() -> None:
    text = samples.BENCHMARK_NOW.replace("Inference (avg): 4050.5", "Inference (avg): 9050.5")
    with pytest.raises(ArtifactError, match="two average latencies that differ"):
        read_benchmark_model(text, LOG)


def test_a_runner_that_logs_nothing_is_to_be_built_with_its_log() -> None:
    with pytest.raises(ArtifactError, match="EXECUTORCH_ENABLE_LOGGING=ON"):
        read_executor_runner("--------- beginning of main\n", LOG, 4712)
