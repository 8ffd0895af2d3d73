"""`msd bench --import`: what apps measured, in a run's reports."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, read_manifest, sha256_of_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError
from msd_deploy.hooks import StageHooks
from msd_export.folder import KIND
from msd_mobile_bench.import_apps import add_apps, apps_of_before
from msd_mobile_bench.report import JSON_NAME, MARKDOWN_NAME, write_reports
from msd_mobile_bench.schema import Bench
from msd_mobile_bench.variants import find_variants

WRITTEN: dict[str, Any] = {
    "schema_version": 1,
    "kind": "app_benchmark",
    "platform": "android",
    "form": "onnx-fp32",
    "bundle_digest": "9" * 64,
    "runtime": "ONNX Runtime 1.29.0",
    "threads": 1,
    "device": {"model": "An invented phone", "system": "Android 16", "cores": 8},
    "measured_utc": "2026-01-02T03:04:05Z",
    "load_ms": 51.2,
    "first_ms": 3.1,
    "clock_step_ms": 0.001,
    "latency_ms": {
        "multimodal": [[2.0, 4.0], [3.0]],
        "image": [[2.5], [2.5]],
        "text": [[0.5], [0.7]],
    },
    "photo": {"bytes": 3_481_200, "width": 4032, "height": 3024, "characters": 14},
    "stages_ms": {
        "decode": [80.0, 82.0],
        "resize": [20.0, 22.0],
        "tokenize": [0.02, 0.02],
        "inference": [3.0, 3.0],
        "total": [103.0, 107.0],
    },
    "conditions": {"before": {"thermal": "none", "battery": 0.8}, "after": {"thermal": "light"}},
}


@pytest.fixture
def run(untrained_run: RunDirectory, example_bench: Bench, tmp_path: Path) -> RunDirectory:
    """A run with a benchmark."""
    copied = RunDirectory(Path(shutil.copytree(untrained_run.root, tmp_path / "run")))
    copied.reports.mkdir(exist_ok=True)
    write_reports(copied.reports, example_bench)
    return copied


@pytest.fixture
def written(run: RunDirectory) -> dict[str, Any]:
    """What an app wrote of the run's export; change it as you like."""
    digest = sha256_of_json(read_manifest(run.exports / "onnx-fp32", KIND))
    return {**copy.deepcopy(WRITTEN), "export_digest": digest}


def save(content: object, path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_an_apps_percentiles_stand_beside_the_rows(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    path = save(written, tmp_path / "phone.json")
    answer = CliRunner().invoke(app, ["bench", str(run.root), "--import", str(path)])
    assert answer.exit_code == 0, answer.output
    bench: Any = read_json(run.reports / JSON_NAME)
    (found,) = bench["apps"]
    assert found["name"] == "student-onnx-fp32"
    assert found["latency_ms"]["multimodal"]["p50"] == 3.0
    assert found["latency_ms"]["multimodal"]["p50_per_round"] == [3.0, 3.0]
    assert found["stages_ms"]["total"]["mean"] == 105.0
    assert len(bench["rows"]) == 4
    markdown = (run.reports / MARKDOWN_NAME).read_text()
    assert (
        "| ONNX fp32, An invented phone (Android 16), ONNX Runtime 1.29.0, 2026-01-02 03:04 | 3 ms"
        in markdown
    )
    assert "4,032 x 3,024" in markdown


def test_what_cannot_be_printed_is_a_blank(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    written["device"] = {"model": "\x1b[31m|<b>", "system": "iOS\u00a026.1\u200f", "cores": 6}
    (found,) = add_apps(run, [save(written, tmp_path / "phone.json")])["apps"]
    assert (found["device"], found["system"]) == ("31m b", "iOS 26.1")
    assert "| ONNX fp32, 31m b (iOS 26.1)" in (run.reports / MARKDOWN_NAME).read_text()


def test_a_file_counts_once_and_files_add_up(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    first, second = save(written, tmp_path / "a.json"), tmp_path / "b.json"
    save({**written, "platform": "web", "threads": None, "load_ms": None}, second)
    add_apps(run, [first])
    bench = add_apps(run, [second, first, first])
    assert [each["platform"] for each in bench["apps"]] == ["web", "android"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kind", "bench", "kind is not 'app_benchmark'"),
        ("platform", "symbian", "platform is not one of android, ios, web"),
        ("device.cores", 0, "device.cores is not a whole number from 1"),
        ("device.cores", True, "device.cores is not a number"),
        ("device.model", "\x1b\n", "device.model is not a text"),
        ("device.model", "a" * 501, "device.model is not a text of up to 500 characters"),
        ("device.model", 3, "device.model is not a text"),
        ("measured_utc", "yesterday", "measured_utc is not a time"),
        ("latency_ms.text", [], "latency_ms.text is not a list of rounds"),
        ("latency_ms.text", [[]], "latency_ms.text is not a list of samples"),
        ("latency_ms.image", [[1.0, -1.0]], "latency_ms.image is not milliseconds"),
        ("latency_ms.image", [["1"]], "latency_ms.image is not milliseconds"),
        ("stages_ms.decode", None, "stages_ms.decode is not a list"),
        ("conditions.after", {"thermal": "warm"}, "conditions.after.thermal is not one of"),
        ("conditions.after", {"battery": 77}, "conditions.after.battery is not a number from 0 to"),
        ("form", "onnx-int8", "an export onnx-int8 that is none of this run's"),
        ("conditions.after", {"low_power": "no"}, "conditions.after.low_power is not true"),
        ("conditions.after", {"hidden": 0}, "conditions.after.hidden is not true"),
        ("conditions.before", [], "conditions.before is not an object"),
        ("threads", 1.5, "threads is not a whole number"),
        ("schema_version", 2, "reads up to 1"),
        ("export_digest", "0" * 64, "an export onnx-fp32 that is none of this run's"),
    ],
)
def test_what_cannot_be_is_one_error_that_names_file_and_key(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path, key: str, value: object, said: str
) -> None:
    *parents, last = key.split(".")
    place = written
    for parent in parents:
        place = place[parent]
    place[last] = value
    before = (run.reports / JSON_NAME).read_bytes()
    with pytest.raises(ArtifactError) as caught:
        add_apps(run, [save(written, tmp_path / "phone.json")])
    assert "phone.json" in str(caught.value)
    assert said in str(caught.value)
    assert (run.reports / JSON_NAME).read_bytes() == before


@pytest.mark.parametrize("key", ["clock_step_ms", "device.model", "latency_ms.text", "conditions"])
def test_a_missing_key_is_named(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path, key: str
) -> None:
    *parents, last = key.split(".")
    place = written
    for parent in parents:
        place = place[parent]
    del place[last]
    with pytest.raises(ArtifactError, match=f"has no {key}"):
        add_apps(run, [save(written, tmp_path / "phone.json")])


@pytest.mark.parametrize("content", [None, '{"schema_version": 1, "kind": "app_', "[]"])
def test_a_file_that_is_cut_or_missing_is_to_be_written_by_the_bundle_again(
    run: RunDirectory, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "phone.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=r"phone\.json: .* output of the bundle's benchmark"):
        add_apps(run, [path])


def test_without_a_benchmark_there_is_nothing_to_add_to(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    (run.reports / JSON_NAME).unlink()
    with pytest.raises(ArtifactError, match=r"Run msd bench .* first"):
        add_apps(run, [save(written, tmp_path / "phone.json")])


@pytest.mark.parametrize("key", ["kind", "rows", "apps", "confidence"])
def test_a_benchmark_of_another_version_is_one_error(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path, key: str
) -> None:
    bench: Any = read_json(run.reports / JSON_NAME)
    for place in (bench, *bench["rows"]):
        place.pop(key, None)
    save(bench, run.reports / JSON_NAME)
    with pytest.raises(ArtifactError, match="was written by another version"):
        add_apps(run, [save(written, tmp_path / "phone.json")])
    assert apps_of_before(run, find_variants(run), StageHooks()) == []


def test_settings_beside_an_import_are_refused(run: RunDirectory, tmp_path: Path) -> None:
    line = ["bench", str(run.root), "--import", str(tmp_path), "--threads", "2"]
    assert "--import" in str(CliRunner().invoke(app, line).exception)


def test_a_new_benchmark_keeps_the_apps_of_exports_that_are_the_same(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    add_apps(run, [save(written, tmp_path / "phone.json")])
    notes: list[str] = []
    hooks = StageHooks(on_note=notes.append)
    assert len(apps_of_before(run, find_variants(run), hooks)) == 1
    assert notes == []
    assert apps_of_before(run, [], hooks) == []
    assert notes == ["Left out 1 of 1 apps' benchmarks: their exports were made again."]


def test_what_makes_the_numbers_doubtful_is_noted(
    run: RunDirectory, written: dict[str, Any], tmp_path: Path
) -> None:
    written["clock_step_ms"] = 0.1
    written["conditions"]["after"] = {"thermal": "severe", "low_power": True, "hidden": True}
    add_apps(run, [save(written, tmp_path / "phone.json")])
    markdown = (run.reports / MARKDOWN_NAME).read_text()
    for words in ("its clock steps by 0.1 ms", "thermal state severe", "saved power", "hidden"):
        assert words in markdown
