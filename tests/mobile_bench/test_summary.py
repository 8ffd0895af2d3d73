from msd_mobile_bench.report import render_html, render_markdown
from msd_mobile_bench.schema import Bench
from msd_mobile_bench.summary import summarize


def test_the_student_is_compared_with_the_teacher_and_int8_with_fp32(example_bench: Bench) -> None:
    int8 = example_bench["rows"][2]
    int8["size_bytes"] = 120_000
    int8["scores"]["image"]["value"] -= 0.01
    assert summarize(example_bench) == [
        "In ONNX fp32 the student is 5.4 times as fast as the teacher, has 9.23 % of its size and"
        " 2.1 points less accuracy.",
        "ONNX int8 is 1.1 times as fast as fp32, has 50 % of its size and 0.2 points less accuracy"
        " (image alone: 1.2 points less).",
    ]


def test_a_difference_within_the_intervals_is_none(example_bench: Bench) -> None:
    fp32, int8 = example_bench["rows"][1], example_bench["rows"][2]
    assert fp32["latency_ms"] is not None
    assert int8["latency_ms"] is not None
    int8["latency_ms"] = {**fp32["latency_ms"], "p50": 0.268, "p50_interval": [0.264, 0.274]}
    assert "ONNX int8 is about as fast as fp32" in summarize(example_bench)[1]
    int8["latency_ms"]["p50"], int8["latency_ms"]["p50_interval"] = 0.54, [0.53, 0.55]
    assert "ONNX int8 takes 2 times as long as fp32" in summarize(example_bench)[1]


def test_without_a_latency_only_size_and_metric_are_compared(example_bench: Bench) -> None:
    example_bench["rows"][2]["latency_ms"] = None
    example_bench["rows"][2]["scores"] = example_bench["rows"][1]["scores"]
    assert summarize(example_bench)[1] == (
        "ONNX int8 has 100 % of the size of fp32 and the same accuracy."
    )


def test_failures_are_named_in_both_reports(example_bench: Bench) -> None:
    example_bench["rows"][3].update(status="invalid", scores={}, agreement={}, confidence={})
    assert summarize(example_bench)[-1] == "Failed: Student, Core ML fp16."
    assert "- Failed: Student, Core ML fp16." in render_markdown(example_bench)
    assert "Failed: Student, Core ML fp16." in render_html(example_bench)


def test_large_factors_are_written_in_full(example_bench: Bench) -> None:
    teacher = example_bench["rows"][0]
    assert teacher["latency_ms"] is not None
    teacher["latency_ms"]["p50"] = 405.0
    teacher["latency_ms"]["p50_interval"] = [400.0, 410.0]
    assert "is 1,500 times as fast as the teacher" in summarize(example_bench)[0]
