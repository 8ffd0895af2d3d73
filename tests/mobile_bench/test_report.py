import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from msd_deploy.decision_quality import DecisionsJson
from msd_deploy.pages.formatting import Interval, bytes_text, count_text, percent, score_text
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.make_rows import write_notes
from msd_mobile_bench.report import render_html, render_markdown, write_reports
from msd_mobile_bench.schema import Bench
from msd_mobile_bench.tables import (
    headline,
    latency_table,
    milliseconds_text,
    quality_table,
    row_title,
    speed_table,
    summary_table,
)


class _Loads(HTMLParser):
    """Collects whatever a page would request."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form"):
            self.found.append(tag)
        loads = ("src", "href", "xlink:href", "srcset", "action")
        self.found += [f"{name}={value}" for name, value in attrs if name in loads]


def test_the_page_requests_nothing_from_anywhere(example_bench: Bench) -> None:
    page = render_html(example_bench)
    parser = _Loads()
    parser.feed(page)
    assert parser.found == []
    assert not re.search(r"https?://|url\(|@import|@font-face", page)
    assert "default-src 'none'" in page


def test_the_page_has_a_chart_for_each_width_and_every_variant(example_bench: Bench) -> None:
    page = render_html(example_bench)
    assert page.count("<svg") == 2
    for form in ("Teacher, ONNX fp32", "Student, ONNX int8"):
        assert page.count(form) == 4  # in every table
    assert (
        page.count("Student, Core ML fp16") == 4
    )  # not among the latencies, named below the chart
    assert "latency needs a Mac or an iPhone" in page
    assert "Not shown, without a measured latency: Student, Core ML fp16." in page


def test_markup_in_the_names_of_run_and_data_is_escaped(example_bench: Bench) -> None:
    example_bench["run"] = "<script>alert(1)</script>"
    example_bench["data"]["name"] = "<img src=x>"
    page = render_html(example_bench)
    assert "<script" not in page
    assert "<img" not in page


def test_the_markdown_has_a_line_for_every_variant_and_the_command(example_bench: Bench) -> None:
    text = render_markdown(example_bench)
    assert text.count("| Student, ONNX int8 |") == 4
    assert "    msd bench runs/memes\n" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
    assert len(widths) == 2  # three tables have one width: no cell breaks its row


def test_each_view_has_its_own_latency(example_bench: Bench) -> None:
    example_bench["rows"][0]["latency_ms"] = None
    example_bench["rows"][0]["single_view_latency_ms"] = {}
    table = latency_table(example_bench)
    titles = [row_title(row) for row in example_bench["rows"] if row["latency_ms"] is not None]
    assert [line.name for line in table.lines] == titles
    (row,) = (row for row in example_bench["rows"] if row["name"] == "student-onnx-int8")
    assert row["latency_ms"] is not None
    line = table.lines[titles.index("Student, ONNX int8")]
    p50 = row["latency_ms"]["p50"]
    assert line.cells[:3] == tuple(map(milliseconds_text, (p50, p50, p50 / 4)))


def test_calibration_has_a_table_where_the_test_split_has_labels(example_bench: Bench) -> None:
    text = render_markdown(example_bench)
    assert "## Calibration, 2,000 test examples" in text
    assert "0.021 (0.015 to 0.034)" in text
    rows = [{**row, "confidence": {}} for row in example_bench["rows"]]
    assert "Calibration" not in render_markdown({**example_bench, "rows": rows})  # type: ignore[typeddict-item]


def test_decisions_have_a_table_where_a_model_has_an_operating_point(
    example_bench: Bench,
) -> None:
    def point(value: float) -> DecisionsJson:
        share: Interval = {"value": value, "interval": [value - 0.01, value + 0.01]}
        return {
            "precision": share,
            "recall": share,
            "abstained": share,
            "examples": 2000,
            "by_class": {},
        }

    assert "Operating points" not in render_markdown(example_bench)
    example_bench["operating_points"] = {
        "student": {"rule": "precision=0.9", "expected": {"multimodal": point(0.905)}}
    }
    example_bench["rows"][2]["decisions"] = {"multimodal": point(0.888)}
    table = render_markdown(example_bench).partition("## Operating points, 2,000 test examples")[2]
    (line,) = (each for each in table.splitlines() if each.startswith("| Student, ONNX int8, "))
    assert line.startswith("| Student, ONNX int8, precision=0.9: image and text |")
    assert line.count("88.8 % (87.8 to 89.8)") == 3
    assert line.count("| 90.5 % ") == 3


def test_a_bar_in_a_name_does_not_break_the_markdown(example_bench: Bench) -> None:
    example_bench["rows"][2]["precision"] = "a|b"
    assert "| Student, ONNX a\\|b |" in render_markdown(example_bench)


def test_a_variant_without_latency_has_dashes_but_keeps_size_and_metric(
    example_bench: Bench,
) -> None:
    line = speed_table(example_bench).lines[3]
    assert line.cells == ("–", "–", "–", "53.5 k", "240 kB", "210 kB", "–", "–", "–", "–")
    assert quality_table(example_bench).lines[3].cells[0] == "94.1 % (93.1 to 95.1)"


def test_a_runtime_or_threads_other_than_usual_are_in_the_title(example_bench: Bench) -> None:
    row = example_bench["rows"][1]
    assert row_title(row) == "Student, ONNX fp32"
    row["threads"] = 4
    assert row_title(row) == "Student, ONNX fp32, 4 threads"
    row["runtime"] = "onnxruntime-web 1.30"
    assert row_title(row) == "Student, ONNX fp32, onnxruntime-web 1.30, 4 threads"


def test_a_row_that_failed_says_so_in_every_report(example_bench: Bench) -> None:
    row = example_bench["rows"][2]
    row.update(
        status="crashed",
        note="its worker process died.",
        latency_ms=None,
        single_view_latency_ms={},
        scores={},
        agreement={},
        confidence={},
    )
    (line,) = (line for line in summary_table(example_bench).lines if "int8" in line.name)
    assert line.cells[-2:] == ("crashed", "–")
    notes = write_notes(
        example_bench["rows"], example_bench["control"], example_bench["host"], BenchConfig()
    )
    assert "student-onnx-int8@onnxruntime-1 failed (crashed): its worker" in "\n".join(notes)
    assert "Student, ONNX int8" in render_markdown(example_bench)
    assert "Student, ONNX int8" in render_html(example_bench)


def test_the_headline_is_the_students_share(example_bench: Bench) -> None:
    tiles = {tile.name: (tile.share, tile.detail) for tile in headline(example_bench)}
    assert tiles["Accuracy"] == ("97.8 %", "94.1 % of 96.2 %")
    assert tiles["Latency"] == ("18.6 %", "0.27 ms of 1.45 ms")
    assert tiles["Parameters"] == ("8.3 %", "53.5 k of 642 k")


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (percent(0.9345), "93.5 %"),
        (percent(None), "–"),
        (
            score_text({"value": 0.5, "interval": [0.4, 0.6], "examples": 9}),
            "50.0 % (40.0 to 60.0)",
        ),
        (milliseconds_text(0.2765), "0.277 ms"),
        (milliseconds_text(1234.4), "1,234 ms"),
        (bytes_text(999), "0.999 kB"),
        (bytes_text(4_520_000), "4.52 MB"),
        (bytes_text(25_276_063_744), "25.3 GB"),
        (count_text(4_120_000), "4.12 M"),
        (count_text(53_502), "53.5 k"),
    ],
)
def test_numbers_are_written_with_their_unit(told: str, text: str) -> None:
    assert told == text


def test_reports_are_written_and_replace_earlier_ones(example_bench: Bench, tmp_path: Path) -> None:
    write_reports(tmp_path / "reports", example_bench)
    example_bench["run"] = "other"
    write_reports(tmp_path / "reports", example_bench)
    names = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert names == ["bench.html", "bench.json", "bench.md"]
    assert (
        json.loads((tmp_path / "reports/bench.json").read_text(encoding="utf-8")) == example_bench
    )
