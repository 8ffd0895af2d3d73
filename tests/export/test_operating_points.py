"""Operating points from `msd distill` and `msd calibrate` to the decisions of exported files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, write_json, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.decisions import DecisionConfig
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, DataError, ParityError
from msd_deploy.hooks import RunHooks, StageHooks
from msd_deploy.metrics import probabilities
from msd_deploy.models.folders import LABELS_NAME, load_model, read_operating_point
from msd_deploy.operating_point import OperatingPoint, decided_classes
from msd_deploy.pipeline import run_distillation
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.temperatures import read_temperatures
from msd_deploy.views import View
from msd_export.calibrate import calibrate_model
from msd_export.config import ExportConfig
from msd_export.formats import Target
from msd_export.opened_model import open_model
from msd_export.parity import compare_logits, predict_every_view
from msd_export.pipeline import export_student
from msd_export.tolerance import Tolerance, check_view

TARGETS: tuple[Target, ...] = ("onnx", "coreml", "executorch", "litert", "coreai")
_ROUNDING = 1e-4
"""Probabilities of float32 exports differ by less (logits by up to 1e-4 at most)."""


def decide(model: Path, decisions: DecisionConfig, spec: str | None = None) -> dict[str, Any]:
    return calibrate_model(
        model, spec, options=SourceOptions(), split="validation", decisions=decisions
    )


@pytest.fixture(scope="module")
def posters(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run of a multi-label task; read it, never write into it."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "posters")
    config = RunConfig(
        data=DataConfig(spec="synthetic:posters", examples=300),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1),
    )
    run_distillation(config, run)
    return run


@pytest.mark.slow
def test_every_target_decides_and_abstains_as_pytorch(own_run: RunDirectory) -> None:
    student = load_model(own_run.student)
    rows = data_of_run(read_run(own_run), student.preprocessor).splits["test"]
    source = open_model(own_run.root)
    found = source.temperatures.scaled(predict_every_view(source.predictor, rows), rows)
    middle = float(np.median(probabilities(found[View.MULTIMODAL], "single_label").max(axis=1)))
    decide(own_run.root, DecisionConfig(abstain_below=round(middle, 5)))
    config = ExportConfig(
        tuple((target, "fp32") for target in TARGETS), max_drop_points=100, examples=20
    )
    export_student(own_run, config)
    source = open_model(own_run.root)
    assert source.operating_point is not None
    expected = predict_every_view(source.predictor, rows)
    scaled = source.temperatures.scaled(expected, rows)
    for target in TARGETS:
        folder = own_run.exports / f"{target}-fp32"
        opened = open_model(folder)
        assert opened.operating_point == source.operating_point
        parity = read_json(folder / "parity.json")
        views: Any = parity["views"]
        assert views["multimodal"]["abstention_agreement"] >= 0.9
        logits = opened.temperatures.scaled(predict_every_view(opened.predictor, rows), rows)
        for view in View:
            own, its = (
                decided_classes(values[view], view, rows, "single_label", source.operating_point)
                for values in (logits, scaled)
            )
            confidence = probabilities(scaled[view], "single_label").max(axis=1)
            threshold = source.operating_point.thresholds[view][0]
            clear = np.abs(confidence - threshold) > _ROUNDING
            assert (own == its)[clear].all(), (target, view)
            if view is View.MULTIMODAL:
                assert 0.2 < its.any(axis=1).mean() < 0.8  # it decides some, and abstains of some


def test_a_multi_label_student_has_f1_thresholds(posters: RunDirectory) -> None:
    point = read_operating_point(posters.student)
    assert point is not None
    assert point.rule == "f1"
    assert load_model(posters.student).operating_point == point
    metrics: Any = read_json(posters.metrics)
    decided = metrics["student"]["decisions"]["test"]["multimodal"]
    assert decided["recall"]["value"] > 0.3  # at .5 it decides next to nothing after one epoch
    assert set(decided["by_class"]) == set(load_model(posters.student).labels)
    assert metrics["teacher"]["operating_point"]["rule"] == "f1"
    precision, recall = (decided[key]["value"] for key in ("precision", "recall"))
    f1 = 2 * precision * recall / (precision + recall)
    assert metrics["student"]["test"]["multimodal"]["value"] == pytest.approx(f1, abs=1e-5)


@pytest.mark.slow
def test_the_probabilities_of_every_target_have_the_biases_of_sigmoids(
    posters: RunDirectory, tmp_path: Path
) -> None:
    """Each predictor compares probabilities with those of the logits; without b these differ."""
    run = RunDirectory(Path(shutil.copytree(posters.root, tmp_path / "run")))
    biases = read_temperatures(run.student).biases
    assert max(map(abs, biases.values())) > 0.1
    forms = tuple((target, "fp32") for target in TARGETS)
    export_student(run, ExportConfig(forms, max_drop_points=100, examples=20))
    rows = data_of_run(read_run(run), load_model(run.student).preprocessor).splits["test"].head(50)
    for target in TARGETS:
        opened = open_model(run.exports / f"{target}-fp32")
        assert opened.temperatures.biases == biases
        predict_every_view(opened.predictor, rows)


def test_evaluate_scores_what_is_decided(posters: RunDirectory) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(posters.root), "--json"])
    assert answer.exit_code == 0, answer.stderr
    result, metrics = json.loads(answer.stdout), read_json(posters.metrics)
    of_student: Any = metrics["student"]
    assert result["views"] == of_student["test"]
    assert result["decisions"] == of_student["decisions"]["test"]
    shown = CliRunner().invoke(app, ["evaluate", str(posters.root)])
    assert "Decisions on test, f1" in shown.stdout
    assert shown.stdout.count("when chosen") == 3


def test_predict_prints_what_is_decided(own_run: RunDirectory) -> None:
    line = ["predict", str(own_run.root), "--text", "look at him go"]
    assert "decided: " in CliRunner().invoke(app, line).stdout
    decide(own_run.root, DecisionConfig(abstain_below=0.99999))
    assert "abstains (abstain_below=0.99999, text alone)" in CliRunner().invoke(app, line).stdout
    answer = json.loads(CliRunner().invoke(app, [*line, "--json"]).stdout)
    assert answer["decided"] == []
    assert answer["view"] == "text"
    assert len(answer["probabilities"]) == 2


def test_calibrating_again_keeps_the_rule_and_none_removes_it(own_run: RunDirectory) -> None:
    before = read_json(own_run.metrics)
    assert read_operating_point(own_run.student) is None
    result = decide(own_run.root, DecisionConfig(decide="recall=0.3"))
    point = read_operating_point(own_run.student)
    assert point is not None
    assert result["operating_point"] == point.as_json("single_label")
    changed: Any = read_json(own_run.metrics)
    assert changed["student"]["operating_point"] == result["operating_point"]
    assert changed["student"]["test"] == before["student"]["test"]  # type: ignore[index]
    decide(own_run.root, DecisionConfig())
    assert read_operating_point(own_run.student) == point
    decide(own_run.root, DecisionConfig(decide="none"))
    assert read_operating_point(own_run.student) is None
    assert read_json(own_run.metrics) == before


def test_calibrating_with_other_data_scores_both_models_at_the_new_thresholds(
    posters: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(posters.root, tmp_path / "run")))
    decide(run.root, DecisionConfig(decide="recall=0.8"), "synthetic:posters")
    metrics: Any = read_json(run.metrics)
    for model in ("teacher", "student"):
        facts = metrics[model]
        assert facts["operating_point"]["rule"] == "recall=0.8"
        decided = facts["decisions"]["test"]["multimodal"]
        precision, recall = (decided[key]["value"] for key in ("precision", "recall"))
        assert recall == pytest.approx(0.8, abs=0.06)
        f1 = 2 * precision * recall / (precision + recall)
        assert facts["test"]["multimodal"]["value"] == pytest.approx(f1, abs=1e-5)
    decide(run.root, DecisionConfig(decide="none"))
    metrics = read_json(run.metrics)
    assert "operating_point" not in metrics["teacher"]
    assert "operating_point" not in metrics["student"]


def test_an_export_that_abstains_otherwise_is_refused() -> None:
    """All confidences lie clearly on the other side of the threshold, whose mean stays."""
    rows = np.arange(400)
    tokens = np.ones((400, 2), np.int32)
    split = PreparedSplit(
        np.zeros((1, 2, 2, 3), np.uint8), rows * 0, tokens, tokens, np.zeros(400, np.int64), rows
    )
    margins = np.where(rows % 2, 3.0, 1.0)
    source = {view: np.stack([margins, 0 * margins], axis=1).astype(np.float32) for view in View}
    exported = {view: logits[::-1].copy() for view, logits in source.items()}
    point = OperatingPoint(
        "abstain_below=0.85", dict.fromkeys(View, (0.85,)), dict.fromkeys(View, 0), {}
    )
    result = compare_logits(exported, source, split, "single_label", point=point)[View.MULTIMODAL]
    assert result.agreement == 1.0
    assert result.confidence.shift == 0.0
    assert result.sure_abstention_agreement == 0.0
    with pytest.raises(ParityError, match=r"abstains as the source does on 0\.00%"):
        check_view(View.MULTIMODAL, result, Tolerance(None, 0.95), "onnx-int8")


def test_a_point_that_cannot_be_supported_leaves_the_folder_as_it_is(
    own_run: RunDirectory,
) -> None:
    before = (own_run.student / "manifest.json").read_bytes(), own_run.metrics.read_bytes()
    with pytest.raises(DataError, match="view has 100 labelled examples, and 299 are needed"):
        decide(own_run.root, DecisionConfig(decide="precision=0.99"))
    line = ["calibrate", str(own_run.root), "--decide", "threshold=0.4"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 1
    assert "is for multi-label tasks" in str(answer.exception)
    after = (own_run.student / "manifest.json").read_bytes(), own_run.metrics.read_bytes()
    assert after == before


def test_a_run_whose_student_misses_its_rule_is_finished_without_it(
    small_config: RunConfig, tmp_path: Path
) -> None:
    notes: list[str] = []
    run = RunDirectory(tmp_path / "run")
    config = replace(small_config, decisions=DecisionConfig(decide="recall=0.96"))
    hooks = RunHooks(StageHooks(on_note=notes.append))
    too_much = replace(small_config, decisions=DecisionConfig(decide="recall=0.98"))
    with pytest.raises(DataError, match="view has 100 labelled examples, and 149 are needed"):
        run_distillation(too_much, RunDirectory(tmp_path / "refused"), hooks=hooks)
    assert not (tmp_path / "refused").exists()  # refused before anything is trained
    run_distillation(config, run, hooks=hooks)
    assert read_operating_point(run.student) is None
    (note,) = [note for note in notes if "operating point" in note]
    assert note.startswith("the student has no operating point: recall=0.96 cannot be met: only ")
    assert note.endswith(f"msd calibrate {run.root} --decide RULE")


def test_a_threshold_beyond_1_is_refused_when_a_model_is_read(own_run: RunDirectory) -> None:
    decide(own_run.root, DecisionConfig(abstain_below=0.9))
    labels: Any = read_json(own_run.student / LABELS_NAME)
    labels["operating_point"]["abstain_below"]["image"] = 1.2
    write_json(own_run.student / LABELS_NAME, labels)
    manifest = read_json(own_run.student / "manifest.json")
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "files")}
    write_manifest(own_run.student, "model", facts)
    with pytest.raises(ArtifactError, match=r"abstain_below of the image view .* from 0 to 1"):
        open_model(own_run.root)


def test_a_point_without_its_decision_is_refused(own_run: RunDirectory) -> None:
    decide(own_run.root, DecisionConfig(abstain_below=0.9))
    labels: Any = read_json(own_run.student / LABELS_NAME)
    del labels["operating_point"]
    write_json(own_run.student / LABELS_NAME, labels)
    manifest = read_json(own_run.student / "manifest.json")
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "files")}
    write_manifest(own_run.student, "model", facts)
    with pytest.raises(ArtifactError, match="has the decision 'argmax, if probability"):
        open_model(own_run.root)
