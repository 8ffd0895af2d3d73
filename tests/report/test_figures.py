"""distillation.json against numbers computed by hand from the models' logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.distillation.teacher_cache import read_predictions
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.folders import load_model
from msd_deploy.models.predict import predict_views
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.distillation import ReportConfig, write_distillation_report
from msd_deploy.report.schema import DistillationJson
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View

VIEWS = tuple(View)


@pytest.fixture(scope="module")
def report(
    kd_run: RunDirectory, msd_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory
) -> DistillationJson:
    page = tmp_path_factory.mktemp("report") / "both.html"
    path, figures = write_distillation_report([kd_run, msd_run], ReportConfig(out=page))
    assert path == page
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8")) == figures
    return figures


@pytest.fixture(scope="module")
def rows(msd_run: RunDirectory) -> PreparedSplit:
    return data_of_run(read_run(msd_run), load_model(msd_run.student).preprocessor).splits["test"]


@pytest.fixture(scope="module")
def logits(msd_run: RunDirectory, rows: PreparedSplit) -> tuple[LogitsByView, LogitsByView]:
    """Those of the teacher and of the student of MSD."""
    teacher = read_predictions(msd_run.teacher_predictions).by_view("test")
    return teacher, predict_views(load_model(msd_run.student).model, rows)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    raised = np.exp(logits.astype(np.float64))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("view", VIEWS)
def test_the_metric_is_the_share_of_right_decisions(
    report: DistillationJson,
    rows: PreparedSplit,
    logits: tuple[LogitsByView, LogitsByView],
    view: View,
) -> None:
    models = (report["teacher"], report["students"][1])
    for model, values in zip(models, logits, strict=True):
        right = (values[view].argmax(axis=1) == rows.labels).mean()
        assert model["views"][view]["score"]["value"] == pytest.approx(right, abs=1e-6)
        assert model["views"][view]["score"]["examples"] == len(rows)


@pytest.mark.parametrize("view", VIEWS)
def test_closeness_equals_its_definitions(
    report: DistillationJson, logits: tuple[LogitsByView, LogitsByView], view: View
) -> None:
    teacher, student = (softmax(model[view]) for model in logits)
    found = report["students"][1]["closeness"][view]
    agreement = (teacher.argmax(axis=1) == student.argmax(axis=1)).mean()
    divergence = (teacher * (np.log(teacher) - np.log(student))).sum(axis=1).mean()
    shares = [np.histogram(p[:, 1], bins=20, range=(0, 1))[0] / len(p) for p in (teacher, student)]
    apart = np.abs(shares[0] - shares[1]).sum() / 2
    assert found["agreement"] == pytest.approx(agreement, abs=1e-6)
    assert found["distance"] == pytest.approx(divergence, abs=2e-6)  # float32 logarithms
    assert found["total_variation"] == pytest.approx(apart, abs=1e-6)


def test_figures_repeat_those_of_the_run(report: DistillationJson, msd_run: RunDirectory) -> None:
    metrics = json.loads(msd_run.metrics.read_text())
    for model, found in (("teacher", report["teacher"]), ("student", report["students"][1])):
        for view in VIEWS:
            assert found["views"][view]["score"] == metrics[model]["test"][view]
        assert found["parameters"] == metrics[model]["parameters"]
    agreement = {v: report["students"][1]["closeness"][v]["agreement"] for v in VIEWS}
    assert agreement == metrics["agreement"]["test"]


def test_both_runs_stand_in_their_order_with_their_methods(report: DistillationJson) -> None:
    methods = [(student["run"], student["method"]) for student in report["students"]]
    assert methods == [("kd", "kd"), ("<i>msd", "msd-instance")]
    assert report["students"][0]["weights"] == {"fixed": {"multimodal": 1.0}, "by_saliency": {}}
    weights = report["students"][1]["weights"]
    assert weights is not None
    assert set(weights["by_saliency"]) == {"image", "text"}


def test_the_training_is_that_of_the_history(
    report: DistillationJson, msd_run: RunDirectory
) -> None:
    lines = [json.loads(line) for line in msd_run.history.read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "student" and "terms" in line]
    training = report["students"][1]["training"]
    assert training["steps"] == [line["step"] for line in steps]
    images = [line["terms"].get("image") for line in steps]
    assert training["terms"]["image"] == images
    assert 0 < images.count(None) < len(images)  # the last steps have the multimodal view alone
    texts = [line["weights"].get("text", {"std": None})["std"] for line in steps]
    assert training["weights"]["text"]["std"] == texts
    assert len(training["validation"]["steps"]) == 2


def test_examples_show_the_teachers_decisions(
    report: DistillationJson, rows: PreparedSplit, logits: tuple[LogitsByView, LogitsByView]
) -> None:
    counts, shown = report["examples"]["counts"], report["examples"]["shown"]
    assert sum(counts.values()) == int(
        ((rows.image_index >= 0) & (rows.attention_mask.sum(axis=1) > 1)).sum()
    )
    assert shown
    for example in shown:
        decided = {view: int(logits[0][view][example["row"]].argmax()) for view in VIEWS}
        alike = {view: decided[view] == decided[View.MULTIMODAL] for view in VIEWS}
        assert alike[View.IMAGE] == (example["kind"] == "image")
        assert alike[View.TEXT] == (example["kind"] == "text")
        for view in VIEWS:
            chances = softmax(logits[0][view])[example["row"]]
            assert example["teacher"][view]["labels"] == [report["labels"][decided[view]]]
            assert example["teacher"][view]["probability"] == [
                pytest.approx(chances.max(), abs=1e-4)
            ]


def test_no_folder_of_the_data_is_reported(report: DistillationJson, hostile_data: Path) -> None:
    assert report["data"]["name"] == "memes.jsonl"
    content = json.dumps({**report, "command": ""})
    assert str(hostile_data.parent) not in content
    assert all(one["origin"].startswith("memes.jsonl:") for one in report["examples"]["shown"])


def test_a_report_of_the_same_runs_is_the_same(
    report: DistillationJson, kd_run: RunDirectory, msd_run: RunDirectory, tmp_path: Path
) -> None:
    config = ReportConfig(out=tmp_path / "again.html")
    again = write_distillation_report([kd_run, msd_run], config)[1]
    changing = {"created_utc": "", "command": ""}
    assert {**again, **changing} == {**report, **changing}


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["synthetic:posters", "synthetic:entailment"])
def test_tasks_of_several_labels_and_of_three_classes_have_a_report(
    spec: str, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    config = RunConfig(
        data=DataConfig(spec=spec, examples=64),
        teacher=TeacherConfig(epochs=1),
        distill=DistillConfig(epochs=1, weighting="population"),
    )
    run_distillation(config, run)
    page, report = write_distillation_report([run], ReportConfig("validation"))
    assert page == run.reports / "distillation.html"
    metrics: dict[str, Any] = json.loads(run.metrics.read_text())
    score = report["students"][0]["views"]["image"]["score"]
    assert score == metrics["student"]["validation"]["image"]
    weights = report["students"][0]["weights"]
    assert weights is not None
    assert set(weights["fixed"]) == {"multimodal", "image", "text"}
    expected = {"synthetic:posters": "true_classes", "synthetic:entailment": "true_class"}
    assert report["output"]["of"] == expected[spec]
    has_note = any("not independent" in note for note in report["notes"])
    assert has_note == (spec == "synthetic:entailment")  # four hypotheses a scene
    shares = report["teacher"]["views"]["text"]["histogram"]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
