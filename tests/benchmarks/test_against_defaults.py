"""The comparison with the tools' own quantization: its arithmetic by hand, and small real rows."""

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.against_defaults import Work, do_step, main, reason, run_steps
from benchmarks.default_differences import Reference, in_points, packed, result_path
from benchmarks.tool_defaults import FLOAT, RECIPES, Row, rows_of
from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError, ExportError
from msd_deploy.views import View
from msd_export.formats import FORMATS

FOR_CLASS = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


def logits_of(classes: list[int]) -> NDArray[np.float32]:
    return FOR_CLASS[classes]


def reference(labels: list[int], decided: list[int]) -> Reference:
    return Reference("single_label", np.array(labels), dict.fromkeys(View, logits_of(decided)))


def test_every_precision_of_a_recipe_is_one_that_we_export() -> None:
    for target, recipes in RECIPES.items():
        assert {recipe.precision for recipe in recipes.values()} <= {*FORMATS[target].precisions}


def test_ours_come_before_the_tools_of_the_same_precision() -> None:
    assert [(row.name, row.by) for row in rows_of(["litert"])] == [
        ("litert-float", "float"),
        ("litert-int8", "ours"),
        ("litert-int8-static", "static_wi8_ai8"),
        ("litert-int8-dynamic", "ours"),
        ("litert-int8-dynamic-dynamic", "dynamic_wi8_afp32"),
    ]


def test_names_of_rows_are_unique() -> None:
    names = [row.name for row in rows_of(RECIPES)]
    assert len(set(names)) == len(names)


def test_a_difference_counts_the_examples_that_one_of_both_gets_right() -> None:
    against = reference(labels=[0, 0, 0, 0, 1, 1, 1, 1], decided=[0, 0, 0, 1, 1, 1, 1, 0])
    ours = logits_of([0, 0, 0, 1, 1, 1, 1, 1])  # one decision differs from float32, and is right
    tool = logits_of([0, 0, 1, 1, 1, 1, 0, 0])  # two differ, and are wrong
    found = against.difference(ours, tool, View.IMAGE)
    assert found["metric"]["value"] == pytest.approx((7 - 4) / 8)
    assert found["agreement"]["value"] == pytest.approx((7 - 6) / 8)
    low, high = found["metric"]["interval"]
    assert 0 <= low < 3 / 8 < high
    low, high = found["agreement"]["interval"]
    assert low < 0 < high


def test_a_file_does_not_differ_from_itself() -> None:
    against = reference(labels=[0, 1, 1], decided=[0, 1, 0])
    own = logits_of([1, 1, 0])
    found = against.difference(own, own, View.TEXT)
    assert found["metric"] == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert found["agreement"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_decisions_can_be_read_back_from_results() -> None:
    found = reference(labels=[0, 1, 1], decided=[0, 1, 0]).compared(logits_of([1, 1, 0]), View.TEXT)
    stored = zlib.decompress(base64.b64decode(found["decisions"]))
    assert np.frombuffer(stored, np.int8).tolist() == [1, 1, 0]
    assert found["agreement"] == pytest.approx(2 / 3, abs=1e-6)
    assert packed(np.array([1, 1, 0])) == found["decisions"]


def test_points_have_no_negative_zero() -> None:
    assert in_points(-0.0001, (-0.012, 0.0004)) == "+0.0 [-1.2, +0.0]"


def test_a_reason_is_the_first_line_in_the_tools_words() -> None:
    assert reason(ValueError("no such layer\nmore")) == "ValueError: no such layer"
    assert reason(ExportError("the gate refused it")) == "the gate refused it"
    assert reason(RuntimeError("x" * 500)).endswith("x...")
    assert reason(RuntimeError()) == "RuntimeError: "


@pytest.fixture
def work(own_run: RunDirectory, tmp_path: Path) -> Work:
    """A comparison of a small run on 12 test examples, whose inputs and float ONNX file exist."""
    work = Work(own_run.root, None, tmp_path / "work", 12)
    work.folder.mkdir()
    do_step(work, "prepare", 1)
    do_step(work, "row:onnx-float", 1)
    return work


@pytest.mark.slow
def test_a_comparison_continues_and_writes_both_tables(
    work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, since each step of a process of its own loads torch anew.
    do_step(work, "export:onnx", 1)
    left = Row("onnx", "int8-dynamic", "dynamic")
    rows = [row for row in rows_of(["onnx"]) if row.precision != FLOAT and row != left]
    for row in rows:
        do_step(work, f"row:{row.name}", 1)
    made = result_path(work.folder, rows[0]).stat().st_mtime_ns
    out = tmp_path / "out.json"
    main([*work.arguments(), "--targets", "onnx", "--rounds", "1", "--out", str(out)])
    assert result_path(work.folder, rows[0]).stat().st_mtime_ns == made
    result: Any = read_json(out)
    assert set(result["rows"]) == {row.name for row in rows_of(["onnx"])}
    of_float = result["rows"]["onnx-float"]
    assert of_float["error"] is None
    assert {view["agreement"] for view in of_float["views"].values()} == {1.0}
    assert of_float["p50_ms"] > 0
    (pair,) = (pair for pair in result["pairs"] if pair["tool"] == left.name)
    assert pair["ours"] == "onnx-int8-dynamic"
    sizes = [result["rows"][pair[name]]["size_bytes"] for name in ("ours", "tool")]
    assert pair["size_ratio"] == pytest.approx(sizes[0] / sizes[1], abs=1e-4)
    shown = capsys.readouterr().out
    assert "| onnx int8-dynamic | `quantize_dynamic` |" in shown
    assert "| onnx-int8-dynamic | `quantize_dynamic` |" in shown


@pytest.mark.slow
def test_what_a_tool_cannot_quantize_is_a_row_with_its_reason(work: Work) -> None:
    work.path(Row("onnx", FLOAT)).write_bytes(b"damaged")
    row = Row("onnx", "int4", "int4")
    do_step(work, f"row:{row.name}", 1)
    result = read_json(result_path(work.folder, row))
    assert str(result["error"]).startswith("DecodeError: ")
    assert "size_bytes" not in result


@pytest.mark.slow
def test_a_folder_of_another_comparison_is_refused(work: Work) -> None:
    with pytest.raises(ArtifactError, match="holds a comparison with other examples"):
        run_steps(Work(work.model, None, work.folder, 13), ["onnx"], 1)


def test_a_model_folder_needs_data_and_a_run_has_its_own(
    finished_run: RunDirectory, tmp_path: Path
) -> None:
    for words in ([str(finished_run.student)], [str(finished_run.root), "--data", "easy-vqa"]):
        with pytest.raises(ConfigError, match="a run has its data"):
            main([*words, "--work", str(tmp_path / "work")])
