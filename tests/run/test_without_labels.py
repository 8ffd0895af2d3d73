"""Runs on data without labels: what is learned from a given teacher, measured, and refused."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import read_json
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.fine_tuning import FineTuneConfig, TeachingConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ConfigError, DataError, MsdError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks
from msd_deploy.metrics import decided_labels, metric_value
from msd_deploy.pipeline import dry_run_distillation, run_distillation
from msd_deploy.problem import Problem
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.run.fine_tuning import fine_tune_teacher
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from msd_export.config import ExportConfig
from msd_export.evaluate import evaluate_model
from msd_export.pipeline import export_student
from msd_mobile_bench.config import BenchConfig
from msd_mobile_bench.pipeline import run_bench
from tests.command_server import CommandServer

Labelled = tuple[str, ...]


def config_of(finished: RunDirectory, folder: Path, labelled: Labelled) -> RunConfig:
    """A run with the finished run's teacher on 200 memes, of which some splits have labels."""
    path = folder / "memes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["split"] not in labelled:
            row.pop("label")
        if not labelled or row["split"] == "train":
            row.pop("split")
    kept = [row for row in rows if "label" in row or "split" not in row]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return RunConfig(
        data=DataConfig(spec=str(path)),
        teacher=TeacherConfig(path=finished.teacher),
        distill=DistillConfig(epochs=3, patience=1),
    )


@pytest.fixture(scope="module")
def configs(
    finished_run: RunDirectory,
    tmp_path_factory: pytest.TempPathFactory,
    write_memes: Callable[..., Path],
) -> dict[Labelled, RunConfig]:
    """Runs on data with labels of some splits, by these splits."""
    configs = {}
    for labelled in ((), ("test",), ("validation", "test")):
        folder = tmp_path_factory.mktemp("memes")
        write_memes(folder, 120, others=40)
        configs[labelled] = config_of(finished_run, folder, labelled)
    return configs


@pytest.fixture(scope="module")
def unlabelled(configs: dict[Labelled, RunConfig]) -> RunConfig:
    return configs[()]


@pytest.fixture(scope="module")
def run(unlabelled: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run on data without any label; read it, never write into it."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "unlabelled")
    run_distillation(unlabelled, run)
    return run


@pytest.mark.parametrize("labelled", [(), ("test",), ("validation", "test")], ids=str)
def test_scores_are_of_the_splits_with_labels_and_agreement_of_all(
    configs: dict[Labelled, RunConfig], tmp_path: Path, labelled: Labelled
) -> None:
    notes: list[str] = []
    config = replace(configs[labelled], teacher=replace(configs[labelled].teacher, adapt_epochs=2))
    metrics = run_distillation(
        config, RunDirectory(tmp_path / "run"), hooks=RunHooks(StageHooks(on_note=notes.append))
    )
    for model in ("teacher", "adapted_teacher", "student"):
        facts = metrics[model]
        assert isinstance(facts, dict)
        assert {"validation", "test"}.intersection(facts) == set(labelled)
    agreements = metrics["agreement"]
    assert isinstance(agreements, dict)
    assert all(0 < agreements[split]["multimodal"] <= 1 for split in ("validation", "test"))
    if "test" in labelled:
        _, report = write_distillation_report([RunDirectory(tmp_path / "run")], ReportConfig())
        assert bool(report["teacher"]["validation"]) == ("validation" in labelled)
    assert any("no early stopping" in note for note in notes) == ("validation" not in labelled)


def test_without_validation_labels_the_last_epoch_is_kept(run: RunDirectory) -> None:
    training = read_json(run.metrics)["student"]
    assert isinstance(training, dict)
    assert training["training"]["student"] == {"epochs": 3, "planned_epochs": 3, "kept_epoch": 3}
    assert "validation" not in run.history.read_text()


def test_an_interrupted_run_without_labels_resumes_to_the_same_student(
    unlabelled: RunConfig, run: RunDirectory, tmp_path: Path
) -> None:
    own, steps = RunDirectory(tmp_path / "run"), itertools.count()
    config = replace(unlabelled, distill=replace(unlabelled.distill, checkpoint_seconds=0.0))
    hooks = RunHooks(training=Hooks(should_stop=lambda: next(steps) == 3))
    with pytest.raises(StoppedError):
        run_distillation(config, own, hooks=hooks)
    assert (
        run_distillation(config, own, resume=True)["student"] == read_json(run.metrics)["student"]
    )


def test_the_data_of_a_run_is_read_again_without_its_teacher(own: RunDirectory) -> None:
    shutil.rmtree(own.teacher)
    record = read_run(own)
    data = data_of_run(record, Preprocessor.load(own.student))
    assert data.digest == record.dataset_digest


def test_a_dry_run_without_labels_counts_its_examples(
    unlabelled: RunConfig, tmp_path: Path
) -> None:
    planned: Any = dry_run_distillation(unlabelled, RunDirectory(tmp_path / "run"))
    train = planned["data"]["splits"]["train"]
    assert train["without_label"] == train["examples"] > 0
    assert unlabelled.distill.patience
    assert planned["trainings"]["student"]["patience"] == 0


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"teacher": TeacherConfig()}, DataError, "has no labelled row.*--teacher"),
        ({"distill": DistillConfig(method="none")}, DataError, "has no labelled row.*--teacher"),
        (
            {"distill": DistillConfig(weighting="meta")},
            ConfigError,
            "no labelled.*Label some, or use another --weighting",
        ),
        (
            {"distill": DistillConfig(weighting="meta", meta_rows="train")},
            ConfigError,
            "0 labelled",
        ),
    ],
)
def test_what_learns_from_labels_is_refused(
    unlabelled: RunConfig,
    tmp_path: Path,
    change: dict[str, TeacherConfig | DistillConfig],
    error: type[MsdError],
    what: str,
) -> None:
    with pytest.raises(error, match=what):
        run_distillation(replace(unlabelled, **change), RunDirectory(tmp_path / "run"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_class_weights_are_refused(unlabelled: RunConfig, tmp_path: Path) -> None:
    config = replace(unlabelled, data=replace(unlabelled.data, class_weights="balanced"))
    with pytest.raises(ConfigError, match="not available for unlabelled training rows"):
        run_distillation(config, RunDirectory(tmp_path / "run"))


def test_a_teacher_is_adapted_to_unlabelled_data(
    unlabelled: RunConfig, finished_run: RunDirectory, tmp_path: Path
) -> None:
    config = TeachingConfig(
        data=unlabelled.data, finetune=FineTuneConfig(adapt=str(finished_run.teacher), epochs=1)
    )
    notes: list[str] = []
    hooks = RunHooks(StageHooks(on_note=notes.append))
    result = fine_tune_teacher(config, tmp_path / "adapted", hooks=hooks)
    assert any("no early stopping" in note for note in notes)
    assert not {"validation", "test"}.intersection(result)


def test_commands_print_agreement_or_why_not(
    unlabelled: RunConfig, run: RunDirectory, commands: CommandServer, tmp_path: Path
) -> None:
    given = ("--data", unlabelled.data.spec, "--teacher", str(run.teacher), "--epochs", "1")
    done = commands.run("distill", *given, "--out", tmp_path / "run", folder=tmp_path)
    assert done.code == 0
    assert "Agreement with the teacher" in " ".join(done.stdout.split())
    done = commands.run("distill", *given[:2], "--out", tmp_path / "other", folder=tmp_path)
    assert done.code == 1
    assert "msd teacher --zero-shot" in " ".join(done.stderr.split())


def test_an_evaluation_a_report_and_a_study_name_the_missing_labels(
    run: RunDirectory, unlabelled: RunConfig, tmp_path: Path
) -> None:
    for split in ("validation", "test"):
        with pytest.raises(DataError, match=rf"no {split} row has a label, which an evaluation"):
            evaluate_model(
                run.root,
                spec=None,
                options=SourceOptions(),
                split=split,  # type: ignore[arg-type]
                threads=1,
            )
    with pytest.raises(DataError, match="no test row has a label, which a report on it needs"):
        write_distillation_report([run], ReportConfig(out=tmp_path / "page.html"))
    study = StudyConfig(unlabelled, methods=("kd", "msd-fixed"), seeds=1, jobs=1)
    with pytest.raises(DataError, match="no test row has a label, which a comparison of methods"):
        run_study(study, tmp_path / "study")


@pytest.mark.slow
def test_methods_are_compared_on_unlabelled_rows_with_labels_to_test_on(
    configs: dict[Labelled, RunConfig], tmp_path: Path
) -> None:
    base = configs["validation", "test"]
    with pytest.raises(DataError, match="no train row has a label, which the method none needs"):
        run_study(StudyConfig(base, methods=("none", "kd"), seeds=1, jobs=1), tmp_path / "none")
    study = StudyConfig(base, methods=("kd", "msd-fixed"), seeds=1, jobs=1)
    assert run_study(study, tmp_path / "study")["labelled"] == 0


@pytest.fixture
def own(run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run, to write into."""
    return RunDirectory(Path(shutil.copytree(run.root, tmp_path / "run")))


def test_an_export_is_verified_against_the_decisions_of_its_source(own: RunDirectory) -> None:
    notes: list[str] = []
    hooks = StageHooks(on_note=notes.append)
    (export,) = export_student(own, ExportConfig(variants=(("onnx", "int8"),)), hooks)
    parity = read_json(export.folder / "parity.json")
    views = parity["views"]
    assert isinstance(views, dict)
    for view in views.values():
        assert view["source"]["value"] == 1
        assert view["export"]["value"] == view["agreement"]
    assert any("the source's decisions take their place" in note for note in notes)


@pytest.mark.slow
def test_a_benchmark_scores_the_agreement_with_the_teacher(own: RunDirectory) -> None:
    export_student(own, ExportConfig(variants=(("onnx", "fp32"),)))
    bench = run_bench(own, BenchConfig(rounds=1, runs=5, seconds=0))
    assert bench["metric"] == "agreement"
    rows = bench["rows"]
    assert isinstance(rows, list)
    for row in rows:
        for view, score in row["scores"].items():
            assert score["value"] == row["agreement"][view]
    assert rows[0]["scores"]["multimodal"]["value"] == 1


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "soft_label"])
def test_decisions_as_labels_score_their_own_logits_as_right(problem: Problem) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert metric_value(logits, decided_labels(logits, problem), problem) == 1
    assert metric_value(-logits, decided_labels(logits, problem), problem) < 1
