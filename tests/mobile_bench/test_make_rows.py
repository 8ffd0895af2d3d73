import pytest

from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.make_rows import compared_pair, ratios_of, write_notes
from msd_mobile_bench.schema import Bench, Row


def _notes(bench: Bench, config: BenchConfig | None = None) -> str:
    notes = write_notes(bench["rows"], bench["control"], bench["host"], config or BenchConfig())
    return "\n".join(notes)


def test_a_steady_host_gets_no_warning(example_bench: Bench) -> None:
    example_bench["rows"].pop()  # Core ML
    assert _notes(example_bench) == ""


def test_drift_of_the_control_kernel_is_a_warning(example_bench: Bench) -> None:
    example_bench["control"]["host_drift"] = 1.26
    assert "1.26 times as long as the fastest" in _notes(example_bench)


def test_a_busy_host_is_a_warning(example_bench: Bench) -> None:
    example_bench["host"]["load_average_1min"] = 1.6
    assert "load average 1.6 on 2 cores" in _notes(example_bench)


def test_core_ml_without_a_mac_is_explained(example_bench: Bench) -> None:
    assert "latency needs a Mac or an iPhone" in _notes(example_bench)


def test_few_examples_and_odd_rounds_are_noted(example_bench: Bench) -> None:
    example_bench["rows"][0]["scores"]["multimodal"]["examples"] = 40
    notes = _notes(example_bench, BenchConfig(rounds=3))
    assert "Only 40 test examples" in notes
    assert "number of rounds is odd" in notes


def test_ratios_divide_the_student_by_the_teacher_in_onnx_float32(example_bench: Bench) -> None:
    ratios = ratios_of(example_bench["rows"])
    assert ratios["form"] == "onnx-fp32"
    assert ratios["latency"] == pytest.approx(0.27 / 1.45, abs=1e-6)
    assert ratios["size"] == pytest.approx(0.24 / 2.6)
    assert ratios["parameters"] == pytest.approx(53_502 / 641_570, abs=1e-6)
    assert ratios["metric"] == pytest.approx(0.941 / 0.962, abs=1e-6)


def test_without_the_teachers_export_pytorch_is_compared(example_bench: Bench) -> None:
    example_bench["rows"][0]["target"] = "torch"
    example_bench["rows"][2] |= {"target": "torch", "precision": "fp32"}
    assert ratios_of(example_bench["rows"])["form"] == "torch-fp32"
    assert "The teacher is compared in PyTorch" in _notes(example_bench)


def test_unknown_parameters_make_no_ratio(example_bench: Bench) -> None:
    example_bench["rows"][0]["parameters"] = None
    assert ratios_of(example_bench["rows"])["parameters"] is None


def test_teacher_and_student_are_compared_in_one_runtime(example_bench: Bench) -> None:
    rows = example_bench["rows"]
    teacher, student = rows[0], rows[1]
    web: Row = {**student, "key": "web", "runtime_key": "onnxruntime-web"}
    assert compared_pair([web, teacher, student]) == (teacher, student)
    torch: list[Row] = [
        {**row, "target": "torch", "runtime_key": "torch"} for row in (teacher, student)
    ]
    assert compared_pair([*torch, teacher, web]) == tuple(torch)
