"""A teacher that never saw one modality alone is adapted to single views, in a run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msd_deploy.artifacts.manifest import read_json, sha256_of_file
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig, config_from_json
from msd_deploy.data.synthetic.tasks import MEMES_LABELS
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.errors import ConfigError, DataError, StoppedError
from msd_deploy.hooks import Hooks, RunHooks, StageHooks, StepReport
from msd_deploy.metrics import LogitArray, LogitsByView, probabilities
from msd_deploy.models.folders import load_classifier
from msd_deploy.models.predict import predict_views
from msd_deploy.pipeline import dry_run_distillation, run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.report.page import quality_table
from msd_deploy.run.adaptation import begin_adaptation, notes_of_loss
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.study.compare import run_study
from msd_deploy.study.config import StudyConfig
from msd_deploy.views import View


@pytest.fixture(scope="module")
def origin(
    tmp_path_factory: pytest.TempPathFactory, write_memes: Callable[..., Path]
) -> RunDirectory:
    """A run whose student, trained on the labels of pairs alone, is the teacher of the others."""
    path = write_memes(tmp_path_factory.mktemp("memes"), 400, others=100)
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "origin")
    config = RunConfig(
        data=DataConfig(spec=str(path)),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(method="none", epochs=40, keep="last", patience=0),
    )
    run_distillation(config, run)
    return run


@pytest.fixture(scope="module")
def config(origin: RunDirectory) -> RunConfig:
    """Its adaptation, with a checkpoint at every step."""
    return RunConfig(
        data=read_run(origin).config.data,
        teacher=TeacherConfig(path=origin.student, adapt_epochs=8),
        distill=DistillConfig(epochs=1, checkpoint_seconds=0.0, patience=0),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> RunDirectory:
    """The finished run; read it, never write into it."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "adapted")
    run_distillation(config, run)
    return run


def logits_of(folder: Path, run: RunDirectory, split: str = "validation") -> LogitsByView:
    loaded = load_classifier(folder)
    data = data_of_run(read_run(run), loaded.preprocessor)
    return predict_views(loaded.model, data.splits[split])


def distance(predicted: LogitArray, expected: LogitArray) -> float:
    """The mean KL divergence of one prediction from another, in nats."""
    wanted, found = (probabilities(each, "single_label") for each in (expected, predicted))
    return float((wanted * np.log(wanted / found)).sum(axis=1).mean())


def test_single_views_come_closer_to_the_predictions_for_pairs(run: RunDirectory) -> None:
    """And pairs stay closer to them than either."""
    before, after = (logits_of(each, run, "train") for each in (run.teacher, run.adapted_teacher))
    pairs = before[View.MULTIMODAL]
    for view in (View.IMAGE, View.TEXT):
        assert distance(after[view], pairs) < 0.5 * distance(before[view], pairs)
        assert distance(after[View.MULTIMODAL], pairs) < 0.2 * distance(after[view], pairs)


def test_the_student_learns_from_it_and_both_are_measured(run: RunDirectory) -> None:
    metrics: Any = read_json(run.metrics)
    assert list(metrics) == [
        "schema_version",
        "metric",
        "teacher",
        "adapted_teacher",
        "student",
        "agreement",
    ]
    adapted = load_classifier(run.adapted_teacher)
    cached = read_json(run.teacher_predictions / "manifest.json")
    assert cached["key"]["teacher"] == adapted.digest  # type: ignore[index]
    np.testing.assert_allclose(
        read_predictions(run.teacher_predictions).of_view("test", View.IMAGE),
        logits_of(run.adapted_teacher, run, "test")[View.IMAGE],
        atol=1e-5,  # other batches: other orders of summation in float32
    )
    labels = data_of_run(read_run(run), adapted.preprocessor).splits["test"].labels
    for name, folder in (("teacher", run.teacher), ("adapted_teacher", run.adapted_teacher)):
        for view, logits in logits_of(folder, run, "test").items():
            right = float((logits.argmax(axis=1) == labels).mean())
            assert metrics[name]["test"][view]["value"] == pytest.approx(right, abs=1e-6)


def test_its_manifest_names_its_origin_and_its_training(run: RunDirectory) -> None:
    manifest: Any = read_json(run.adapted_teacher / "manifest.json")
    assert manifest["adapted_from"]["digest"] == load_classifier(run.teacher).digest
    assert manifest["adaptation"]["epochs"] == 8
    assert manifest["training"]["adaptation"]["planned_epochs"] == 8
    lines = [json.loads(line) for line in run.history.read_text().splitlines()]
    phases = list(dict.fromkeys(line["phase"] for line in lines))
    assert phases == ["adaptation", "student"]


def test_the_report_shows_the_teacher_before_and_after(run: RunDirectory, tmp_path: Path) -> None:
    _, report = write_distillation_report([run], ReportConfig(out=tmp_path / "page.html"))
    metrics: Any = read_json(run.metrics)
    before = report["teacher"]["before_adaptation"]
    assert before == {view: score["value"] for view, score in metrics["teacher"]["test"].items()}
    after = {view: shown["score"]["value"] for view, shown in report["teacher"]["views"].items()}
    scores = metrics["adapted_teacher"]["test"]
    assert after == {view: score["value"] for view, score in scores.items()}
    names = [line.name for line in quality_table(report).lines]
    assert names[:2] == ["Teacher before adaptation", "Teacher"]


def test_an_adaptation_that_is_stopped_resumes_to_the_same_bits(
    run: RunDirectory, config: RunConfig, tmp_path: Path
) -> None:
    steps: list[StepReport] = []
    hooks = RunHooks(
        training=Hooks(steps.append, lambda: (steps[-1].phase, steps[-1].step) == ("adaptation", 3))
    )
    again = RunDirectory(tmp_path / "again")
    with pytest.raises(StoppedError, match="adaptation training stopped at step 3"):
        run_distillation(config, again, hooks=hooks)
    run_distillation(config, again, resume=True)
    for name in ("adapted_teacher/model.safetensors", "student/model.safetensors"):
        assert sha256_of_file(again.root / name) == sha256_of_file(run.root / name)


def test_classes_take_the_order_of_the_data(
    run: RunDirectory, config: RunConfig, tmp_path: Path
) -> None:
    labels = tuple(reversed(MEMES_LABELS))
    reversed_config = replace(
        config,
        data=replace(config.data, labels=labels),
        teacher=TeacherConfig(path=run.teacher, adapt_epochs=1, adapt_rate=1e-8),
    )
    again = RunDirectory(tmp_path / "reversed")
    run_distillation(reversed_config, again)
    assert load_classifier(again.adapted_teacher).labels == labels
    before, after = logits_of(run.teacher, run), logits_of(again.adapted_teacher, again)
    for view in View:  # a step moves a weight by 1e-8, and running statistics are of other batches
        agreeing = after[view][:, ::-1].argmax(axis=1) == before[view].argmax(axis=1)
        assert agreeing.mean() > 0.8


@pytest.mark.slow
def test_a_teacher_that_the_run_trains_is_adapted(config: RunConfig, tmp_path: Path) -> None:
    trained = replace(config, teacher=TeacherConfig(epochs=1, adapt_epochs=1))
    run = RunDirectory(tmp_path / "trained")
    metrics: Any = run_distillation(trained, run)
    assert list(metrics["teacher"]["training"]) == ["teacher"]
    assert list(metrics["adapted_teacher"]["training"]) == ["adaptation"]
    assert read_json(run.run_json)["teacher_digest"] is None


def test_a_dry_run_plans_it(run: RunDirectory, config: RunConfig, tmp_path: Path) -> None:
    planned: Any = dry_run_distillation(config, RunDirectory(tmp_path / "run"))
    assert list(planned["trainings"]) == ["adaptation", "student"]
    lines = [json.loads(line) for line in run.history.read_text().splitlines()]
    last = max(line["step"] for line in lines if line["phase"] == "adaptation")
    assert planned["trainings"]["adaptation"]["steps"] == last


def test_a_study_compares_students_of_the_adapted_teacher(
    run: RunDirectory, config: RunConfig, tmp_path: Path
) -> None:
    base = replace(config, teacher=TeacherConfig(path=run.teacher, adapt_epochs=1))
    study = StudyConfig(base=base, methods=("kd",), seeds=1, jobs=1)
    run_study(study, tmp_path / "study")
    of_study = RunDirectory(tmp_path / "study")
    cached = read_json(of_study.teacher_predictions / "manifest.json")
    digest = load_classifier(of_study.adapted_teacher).digest
    assert cached["key"]["teacher"] == digest  # type: ignore[index]


def test_data_without_pairs_is_refused_before_anything_is_trained(
    tmp_path: Path, write_memes: Callable[..., Path]
) -> None:
    def split_up(index: int, line: dict[str, str]) -> None:
        del line["image" if index % 2 else "text"]

    spec = str(write_memes(tmp_path, 60, split_up))
    config = RunConfig(data=DataConfig(spec=spec), teacher=TeacherConfig(adapt_epochs=1))
    with pytest.raises(DataError, match="no training example has both an image and a text"):
        run_distillation(config, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_settings_of_an_earlier_version_have_no_adaptation() -> None:
    assert config_from_json({"teacher": {"epochs": 3}}).teacher.adapt_epochs == 0


@pytest.mark.parametrize("key", ["adapt_epochs", "adapt_rate"])
def test_a_value_out_of_range_names_its_key(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"teacher\.{key}: must lie between"):
        TeacherConfig(**{key: -1})


@pytest.mark.parametrize(("wrong", "is_noted"), [(0, False), (1, False), (10, True)])
def test_a_multimodal_view_that_loses_beyond_chance_is_noted(
    run: RunDirectory, wrong: int, is_noted: bool
) -> None:
    loaded = load_classifier(run.adapted_teacher)
    data = data_of_run(read_run(run), loaded.preprocessor)
    adaptation = begin_adaptation(loaded.model, loaded.digest, data, StageHooks())
    labels = data.splits["validation"].labels
    right = np.eye(2, dtype=np.float32)[labels]
    after = right.copy()
    after[:wrong] = 1 - after[:wrong]
    notes = notes_of_loss(replace(adaptation, validation=right), after, data)
    assert len(labels) == 100
    assert len(notes) == is_noted
    if is_noted:
        assert "Accuracy 90.0 % on 100 validation examples, and had 100.0 % before" in notes[0]
