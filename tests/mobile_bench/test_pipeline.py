import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, DataError
from msd_deploy.hooks import StageHooks
from msd_deploy.models.folders import load_model
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import command_line, run_bench
from msd_mobile_bench.schema import Bench
from tests.full_disk import largest_file

_CONFIG = BenchConfig(
    rounds=2, warm_up=1, warm_up_seconds=0, runs=10, seconds=0, batches=2, batch_size=4, examples=60
)


@dataclass(frozen=True)
class Measured:
    run: RunDirectory
    bench: Bench
    counts: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def measured(complete_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A run with its benchmark, and what on_count was called with."""
    root = tmp_path_factory.mktemp("measured") / "untrained"
    run = RunDirectory(Path(shutil.copytree(complete_run.root, root)))
    counts: list[tuple[str, int, int]] = []
    hooks = StageHooks(on_count=lambda what, done, total: counts.append((what, done, total)))
    return Measured(run, run_bench(run, _CONFIG, hooks), counts)


@pytest.fixture(scope="module")
def bench(measured: Measured) -> Bench:
    """The benchmark as its file holds it."""
    path = measured.run.reports / "bench.json"
    written: Bench = json.loads(path.read_text(encoding="utf-8"))
    assert written == measured.bench
    return written


@pytest.mark.slow
def test_every_variant_of_both_models_is_measured(bench: Bench) -> None:
    assert [row["name"] for row in bench["rows"]] == [
        "teacher-torch-fp32",
        "teacher-onnx-fp32",
        "student-torch-fp32",
        "student-onnx-fp32",
        "student-coreml-fp16",
    ]


@pytest.mark.slow
def test_timed_variants_have_samples_of_every_round_and_their_memory(bench: Bench) -> None:
    for row in bench["rows"][:4]:
        assert row["latency_ms"] is not None
        assert [len(samples) for samples in row["latency_ms"]["samples"]] == [5, 5]
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["throughput_batch_size"] == 4
        assert row["peak_rss_bytes"] is not None
        assert row["rss_before_load_bytes"] is not None
        increase = row["peak_rss_bytes"] - row["rss_before_load_bytes"]
        assert row["peak_rss_increase_bytes"] == increase


@pytest.mark.slow
@pytest.mark.skipif("sys.platform == 'darwin'", reason="Core ML itself runs there")
def test_core_ml_has_metrics_and_size_but_no_time(bench: Bench) -> None:
    row = bench["rows"][4]
    assert row["latency_ms"] is None
    assert row["peak_rss_bytes"] is None
    assert row["note"] == "latency needs a Mac or an iPhone"
    assert row["size_bytes"] > 0
    assert row["scores"]["multimodal"]["examples"] == 60


@pytest.mark.slow
def test_the_teacher_agrees_with_its_cached_self_and_the_exports_with_their_source(
    bench: Bench,
) -> None:
    teacher, teacher_onnx, student, student_onnx, _ = bench["rows"]
    assert set(teacher["agreement"].values()) == {1.0}
    assert teacher["scores"] == teacher_onnx["scores"]
    assert student["scores"] == student_onnx["scores"]
    assert student["agreement"] == student_onnx["agreement"]


@pytest.mark.slow
def test_facts_of_the_models_are_those_on_disk(bench: Bench, complete_run: RunDirectory) -> None:
    student = bench["rows"][2]
    model = load_model(complete_run.student).model
    assert student["parameters"] == sum(p.numel() for p in model.parameters())
    assert student["path"] == "student"
    assert student["size_bytes"] == (complete_run.student / "model.safetensors").stat().st_size
    assert bench["data"]["digest"] == read_json(complete_run.run_json)["dataset_digest"]


@pytest.mark.slow
def test_no_report_names_a_folder_of_this_machine(measured: Measured) -> None:
    for name in ("bench.json", "bench.md", "bench.html"):
        text = (measured.run.reports / name).read_text(encoding="utf-8")
        assert str(measured.run.root.parent) not in text
        assert str(Path.home()) + "/" not in text


@pytest.mark.slow
def test_progress_counts_up_to_its_total(measured: Measured) -> None:
    for what in ("measurements", "variants and views"):
        steps = [(done, total) for name, done, total in measured.counts if name == what]
        assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
        assert {total for _, total in steps} == {len(steps)}


def test_data_that_changed_since_the_run_is_refused(
    untrained_run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(untrained_run.root, tmp_path / "run")
    other = RunDirectory(tmp_path / "run")
    stated = read_json(other.run_json)
    other.run_json.write_text(json.dumps({**stated, "dataset_digest": "0" * 64}), encoding="utf-8")
    with pytest.raises(DataError, match="has changed since the run"):
        run_bench(other, _CONFIG)


@pytest.mark.parametrize("limit", [100, 3000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_no_report(
    complete_run: RunDirectory, tmp_path: Path, limit: int
) -> None:
    run = RunDirectory(Path(shutil.copytree(complete_run.root, tmp_path / "run")))
    with (
        largest_file(limit),
        pytest.raises(ArtifactError, match=r"cannot be written \(File too large\)\. Set TMPDIR"),
    ):
        run_bench(run, _CONFIG)
    assert not run.reports.exists()


def test_the_command_names_what_differs_from_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "runs/my memes")
    assert command_line(run, BenchConfig()) == "msd bench 'runs/my memes'"
    config = replace(BenchConfig(), threads=2, batch_size=8, runtimes=("native", "onnxruntime:4"))
    assert command_line(run, config) == (
        "msd bench 'runs/my memes' --threads 2 --runtimes native,onnxruntime:4 --batch-size 8"
    )


def test_a_run_outside_the_working_folder_is_shown_by_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert command_line(RunDirectory(tmp_path / "memes"), BenchConfig()) == "msd bench memes"
