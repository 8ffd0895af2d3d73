"""What counts as worse than an earlier benchmark, and which are compared."""

import copy
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import write_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError
from msd_mobile_bench.regression import Comparison, Limits, compare, read_bench, worse
from msd_mobile_bench.report import render_html, render_markdown
from msd_mobile_bench.schema import Bench, Row


def scale(row: Row, factor: float) -> None:
    """Make a row's latency as many times as long."""
    latency, relative = row["latency_ms"], row["relative_p50"]
    assert latency is not None
    assert relative is not None
    latency["p50"] *= factor
    latency["p50_interval"] = [end * factor for end in latency["p50_interval"]]
    row["relative_p50"] = relative * factor


def test_the_same_benchmark_is_not_worse(example_bench: Bench) -> None:
    against = compare(example_bench, copy.deepcopy(example_bench), Limits())
    assert worse(against) == []
    assert [change["key"] for change in against["changes"]] == [
        row["key"] for row in example_bench["rows"]
    ]
    assert against["changes"][1]["slowdown"] == 0
    assert against["changes"][3]["slowdown"] is None


def test_a_slowdown_counts_beyond_the_limit_and_both_intervals(example_bench: Bench) -> None:
    # Each interval reaches 2 % to both sides: 12 % are 7.6 % at least, 8 % are 3.8 %.
    new = copy.deepcopy(example_bench)
    scale(new["rows"][1], 1.12)
    scale(new["rows"][2], 1.08)
    against = compare(example_bench, new, Limits(max_slowdown=0.05))
    (sentence,) = worse(against)
    assert sentence == (
        "student-onnx-fp32@onnxruntime-1: 12.0 % slower (at least 7.6 %, limit 5 %)."
    )
    assert against["changes"][1]["slowdown_interval"] == [
        pytest.approx(1.12 * 0.98 / 1.02 - 1, abs=1e-6),
        pytest.approx(1.12 * 1.02 / 0.98 - 1, abs=1e-6),
    ]


def test_a_machine_that_is_slower_as_a_whole_does_not_count(example_bench: Bench) -> None:
    new = copy.deepcopy(example_bench)
    for row in new["rows"][:3]:
        relative = row["relative_p50"]
        scale(row, 1.5)
        row["relative_p50"] = relative
    assert worse(compare(example_bench, new, Limits())) == []


def test_a_drop_of_any_view_counts(example_bench: Bench) -> None:
    new = copy.deepcopy(example_bench)
    new["rows"][1]["scores"]["text"]["value"] -= 0.006
    new["rows"][2]["scores"]["image"]["value"] -= 0.004
    (sentence,) = worse(compare(example_bench, new, Limits(max_drop=0.5)))
    assert "student-onnx-fp32@onnxruntime-1: 0.60 points less on the text view" in sentence


def test_other_data_is_not_compared(example_bench: Bench) -> None:
    new = copy.deepcopy(example_bench)
    new["data"]["digest"] = "1" * 64
    new["rows"][1]["scores"]["text"]["value"] -= 0.3
    against = compare(example_bench, new, Limits())
    assert not against["has_same_data"]
    assert worse(against) == []


def test_a_row_that_is_gone_or_failed_is_worse(example_bench: Bench) -> None:
    new = copy.deepcopy(example_bench)
    new["rows"][2]["scores"] = {}
    new["rows"][2]["status"] = "timed_out"
    del new["rows"][1]
    said = worse(compare(example_bench, new, Limits()))
    assert said == [
        "student-onnx-fp32@onnxruntime-1: is not there any more.",
        "student-onnx-int8@onnxruntime-1: timed out.",
    ]


def test_another_host_is_refused_unless_asked_for(example_bench: Bench, tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", example_bench)
    host = {**example_bench["host"], "cpu": "Another"}
    with pytest.raises(ConfigError, match=r"another host: cpu differ\. .*--any-host"):
        Comparison(tmp_path / "bench.json").read(host)  # type: ignore[arg-type]
    anywhere = Limits(any_host=True)
    assert Comparison(tmp_path / "bench.json", anywhere).read(host) == example_bench  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"schema_version": 2, "kind": "run"}', "is not a benchmark"),
        ('{"schema_version": 1, "kind": "bench"}', "was written by an earlier version"),
        ('{"schema_version": 3, "kind": "bench"}', "reads up to 2"),
        ('{"schema_version": 2, "kind": "bench", "rows": [3]}', "has no complete rows"),
    ],
)
def test_what_is_not_a_benchmark_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_bench(tmp_path / "bench.json")


def test_a_row_that_failed_before_too_is_not_worse(example_bench: Bench) -> None:
    row = example_bench["rows"][2]
    row.update(status="crashed", scores={}, model="baseline", relative_p50=None)
    assert worse(compare(example_bench, copy.deepcopy(example_bench), Limits())) == []


@pytest.mark.slow
def test_the_command_ends_with_3_if_a_row_is_worse(
    untrained_run: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(untrained_run.root, tmp_path / "run")))
    few = ["--rounds", "1", "--runs", "5", "--seconds", "0", "--batches", "1", "--examples", "20"]
    line = ["bench", str(run.root), *few]
    assert CliRunner().invoke(app, line).exit_code == 0
    before = json.loads((run.reports / "bench.json").read_text())
    old = tmp_path / "old.json"
    write_json(old, before)
    within = ["--against", str(old), "--max-slowdown", "1000%"]
    answer = CliRunner().invoke(app, [*line, *within])
    assert answer.exit_code == 0, answer.output
    assert "No row is worse than in" in answer.output
    for row in before["rows"]:
        row["scores"]["text"]["value"] = 1.0
    write_json(old, before)
    answer = CliRunner().invoke(app, [*line, *within, "--json"])
    assert answer.exit_code == 3
    assert json.loads(answer.stdout)["against"]["changes"][0]["reasons"]


def test_a_limit_that_is_no_percentage_is_refused(tmp_path: Path) -> None:
    line = ["bench", str(tmp_path), "--max-slowdown", "fast"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 2
    assert "is not a percentage" in " ".join(answer.output.split())


def test_the_reports_show_what_changed(example_bench: Bench) -> None:
    old = copy.deepcopy(example_bench)
    scale(example_bench["rows"][1], 1.12)
    example_bench["against"] = compare(old, example_bench, Limits())
    markdown, page = render_markdown(example_bench), render_html(example_bench)
    assert "student-onnx-fp32@onnxruntime-1: worse | +12.0 % (+7.6, +16.6)" in markdown
    assert "Against the benchmark of" in page
    assert "12.0 % slower" in page
    json.dumps(example_bench)
