"""`msd calibrate`, and calibrated probabilities from training to the exported file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import read_json, write_json, write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.run import DataConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError, DataError, ParityError
from msd_deploy.metrics import probabilities
from msd_deploy.models.folders import load_model, read_operating_point
from msd_deploy.models.predict import predict_views
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.temperatures import CALIBRATION_NAME, UNCALIBRATED, Temperatures, read_temperatures
from msd_deploy.views import View
from msd_export.calibrate import calibrate_model
from msd_export.config import ExportConfig
from msd_export.folder import ExportFolder
from msd_export.opened_model import open_model
from msd_export.pipeline import export_student
from msd_export.predictors import TorchPredictor, open_predictor
from msd_export.signature import refuse_other_probabilities

FP32 = ExportConfig((("onnx", "fp32"),), max_drop_points=100, examples=20)


def calibrate(model: Path, spec: str | None = None) -> dict[str, object]:
    return calibrate_model(model, spec, options=SourceOptions(), split="validation")


def with_temperatures(folder: Path, temperatures: Temperatures) -> None:
    """Write other temperatures into a model or export folder, its manifest along with them."""
    manifest = read_json(folder / "manifest.json")
    write_json(folder / CALIBRATION_NAME, temperatures.as_json())
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "files")}
    write_manifest(folder, str(manifest["kind"]), facts)


def test_a_run_calibrates_its_student_and_states_what_that_changes(
    finished_run: RunDirectory,
) -> None:
    fitted = read_temperatures(finished_run.student)
    assert fitted.examples == dict.fromkeys(View, 100)
    assert load_model(finished_run.student).temperatures == fitted
    of_student = read_json(finished_run.metrics)["student"]
    assert isinstance(of_student, dict)
    student = load_model(finished_run.student)
    splits = data_of_run(read_run(finished_run), student.preprocessor).splits
    logits = {name: predict_views(student.model, splits[name]) for name in ("validation", "test")}
    stated = of_student["confidence"]
    for split in ("validation", "test"):
        for view in View:
            after, before = stated[split][view], stated["uncalibrated"][split][view]
            assert after["outcome"] == before["outcome"]  # decisions stay
            scaled = probabilities(logits[split][view] / fitted.by_view[view], "single_label")
            assert after["confidence"] == pytest.approx(scaled.max(axis=1).mean(), abs=1e-6)
    assert not read_temperatures(finished_run.teacher).is_fitted


def test_calibrating_a_run_again_fits_the_same_temperatures(own_run: RunDirectory) -> None:
    fitted, metrics = read_temperatures(own_run.student), read_json(own_run.metrics)
    weights = (own_run.student / "model.safetensors").read_bytes()
    with_temperatures(own_run.student, Temperatures(dict.fromkeys(View, 9.0), fitted.examples))
    result = calibrate(own_run.root)
    assert read_temperatures(own_run.student) == fitted
    assert result["temperatures"] == fitted.by_name()
    assert (own_run.student / "model.safetensors").read_bytes() == weights
    assert read_json(own_run.metrics) == metrics
    assert read_json(own_run.student / "manifest.json")["training"]  # facts of the training stay


def test_other_data_removes_the_calibration_that_metrics_json_states(own_run: RunDirectory) -> None:
    calibrate(own_run.root, "synthetic:memes")
    assert read_temperatures(own_run.student).examples == dict.fromkeys(View, 500)
    of_student = read_json(own_run.metrics)["student"]
    assert isinstance(of_student, dict)
    assert "confidence" not in of_student
    assert "test" in of_student


def test_views_that_the_data_does_not_have_keep_what_they_have(
    own_run: RunDirectory, tmp_path: Path
) -> None:
    arguments = ["calibrate", str(own_run.root), "--decide", "precision=0.3"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    before, point = read_temperatures(own_run.student), read_operating_point(own_run.student)
    assert point is not None
    opened = open_model(own_run.root)
    texts = [f"look at him go {number}" for number in range(80)]
    labels = [opened.predict(text=text).label for text in texts]  # three in four are right
    labels[::4] = [next(name for name in opened.labels if name != label) for label in labels[::4]]
    rows = zip(texts, labels, strict=True)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    options = ["--data", str(tmp_path / "texts.jsonl"), "--split", "all"]
    answer = CliRunner().invoke(app, [*arguments, *options, "--json"])
    assert answer.exit_code == 0, answer.output
    said = " ".join(answer.output.split())
    assert f"the image view keeps its temperature of {before.by_view[View.IMAGE]:g}" in said
    assert "the multimodal view keeps its temperature" in said
    assert json.loads(answer.stdout)["fitted"] == ["text"]
    after, chosen = read_temperatures(own_run.student), read_operating_point(own_run.student)
    assert chosen is not None
    for view in (View.MULTIMODAL, View.IMAGE):
        assert after.by_view[view] == before.by_view[view]
        assert after.examples[view] == before.examples[view]
        assert chosen.thresholds[view] == point.thresholds[view]
        assert chosen.examples[view] == point.examples[view]
    assert after.examples[View.TEXT] == 80
    assert chosen.examples[View.TEXT] == 80


def test_a_model_folder_is_calibrated_from_the_command_line(
    own_run: RunDirectory, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(own_run.teacher, tmp_path / "teacher"))
    line = ["calibrate", str(teacher), "--data", "synthetic:memes", "--json"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert result["temperatures"] == read_temperatures(teacher).by_name()
    before, after = (result["confidence"][when]["multimodal"] for when in ("before", "after"))
    assert abs(after["confidence"] - after["outcome"]) <= abs(
        before["confidence"] - before["outcome"]
    )
    shown = CliRunner().invoke(app, line[:-1])
    assert "expected calibration error on validation" in " ".join(shown.stdout.split())
    assert f"next: msd export {teacher} --data synthetic:memes" in " ".join(shown.stderr.split())


def test_evaluate_prints_its_table_where_chance_is_unknown(
    finished_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft labels, as of VQA v2, have no calibration error by chance."""
    plain = CliRunner().invoke(app, ["evaluate", str(finished_run.root)])
    assert plain.exit_code == 0, plain.stderr
    assert "by chance" in plain.stdout
    assert plain.stdout.count("–") == 0
    monkeypatch.setattr("msd_deploy.confidence._ece_by_chance", lambda bins, confidence: None)
    answer = CliRunner().invoke(app, ["evaluate", str(finished_run.root)])
    assert answer.exit_code == 0, answer.stderr
    assert answer.stdout.count("–") == 3


@pytest.mark.parametrize(
    ("folder", "fix"), [("teacher", "calibrate the copy"), ("student", "Name the run")]
)
def test_a_folder_of_a_run_is_not_calibrated_by_itself(
    own_run: RunDirectory, folder: str, fix: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        calibrate(own_run.root / folder, "synthetic:memes")
    assert fix in str(caught.value)


def test_a_damaged_metrics_json_is_found_before_the_student_is_replaced(
    own_run: RunDirectory,
) -> None:
    manifest = (own_run.student / "manifest.json").read_bytes()
    write_json(own_run.metrics, {"schema_version": 1, "student": []})
    with pytest.raises(ArtifactError, match="has no student"):
        calibrate(own_run.root)
    assert (own_run.student / "manifest.json").read_bytes() == manifest


def test_too_few_labelled_examples_are_an_error_that_says_how_many_are_needed(
    own_run: RunDirectory, memes_file: DataConfig
) -> None:
    spec = memes_file.spec
    manifest = (own_run.student / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="labelled examples, and a temperature needs 50"):
        calibrate(own_run.root, spec)
    assert (own_run.student / "manifest.json").read_bytes() == manifest


@pytest.fixture
def exported(own_run: RunDirectory) -> ExportFolder:
    """The student with marked temperatures, exported to ONNX."""
    marked = Temperatures(dict(zip(View, (0.5, 2.0, 4.0), strict=True)), dict.fromkeys(View, 100))
    with_temperatures(own_run.student, marked)
    (export,) = export_student(own_run, FP32)
    return export


def test_an_exported_file_gives_calibrated_probabilities_and_raw_logits(
    own_run: RunDirectory, exported: ExportFolder
) -> None:
    import onnxruntime

    split = data_of_run(read_run(own_run), load_model(own_run.student).preprocessor).splits["test"]
    session = onnxruntime.InferenceSession(str(exported.model_path))
    reference = TorchPredictor(own_run.student)
    for view, temperature in zip(View, (0.5, 2.0, 4.0), strict=True):
        inputs = split.inputs(slice(0, 20), view)
        logits, given = session.run(["logits", "probabilities"], inputs)
        np.testing.assert_allclose(logits, reference.predict(inputs), atol=1e-4)
        np.testing.assert_allclose(
            given, probabilities(logits / np.float32(temperature), "single_label"), atol=1e-5
        )
    assert read_temperatures(exported.folder) == read_temperatures(own_run.student)
    opened, plain = open_model(exported.folder), open_model(own_run.student)
    assert opened.predict(text="a b").probabilities == pytest.approx(
        plain.predict(text="a b").probabilities, abs=1e-5
    )


def test_a_file_with_other_temperatures_than_its_graph_is_refused(exported: ExportFolder) -> None:
    model = onnx.load(exported.model_path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    stated = json.loads(properties["temperatures"])
    assert stated == {"multimodal": 0.5, "image": 2.0, "text": 4.0}
    del model.metadata_props[:]
    changed = properties | {"temperatures": json.dumps(stated | {"text": 1.0})}
    onnx.helper.set_model_props(model, changed)
    onnx.save(model, exported.model_path)
    predictor = open_predictor("onnx", exported.model_path)
    zeros = np.zeros((1, *exported.manifest["signature"]["inputs"]["image"]["shape"][1:]), np.uint8)  # type: ignore[index]
    length = exported.manifest["signature"]["inputs"]["input_ids"]["shape"][1]  # type: ignore[index]
    ids = np.full((1, length), 5, np.int32)
    inputs = {
        "image": zeros,
        "image_present": np.zeros(1, np.int32),
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
    }
    with pytest.raises(ParityError, match="probabilities differ by up to"):
        predictor.predict(inputs)


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"text": 0}'])
def test_malformed_temperatures_in_a_file_are_named(tmp_path: Path, text: str) -> None:
    inputs = {"image_present": np.ones(1, np.int32), "attention_mask": np.ones((1, 3), np.int32)}
    outputs = (np.zeros((1, 2), np.float32), np.full((1, 2), 0.5, np.float32))
    with pytest.raises(ArtifactError, match="temperature"):
        refuse_other_probabilities(outputs, inputs, {"temperatures": text}, tmp_path)


def test_temperatures_beside_a_file_that_has_others_are_refused(exported: ExportFolder) -> None:
    with_temperatures(
        exported.folder, Temperatures(dict.fromkeys(View, 1.5), dict.fromkeys(View, 9))
    )
    with pytest.raises(ArtifactError, match="temperatures here and in the model file do not match"):
        open_model(exported.folder)
    (exported.folder / CALIBRATION_NAME).unlink()
    write_manifest(exported.folder, "export", {"target": "onnx", "precision": "fp32"})
    with pytest.raises(ArtifactError, match="temperatures here and in the model file"):
        open_model(exported.folder)


def test_an_export_is_not_calibrated_itself(exported: ExportFolder) -> None:
    with pytest.raises(ArtifactError, match="is an export, whose probabilities are part of its"):
        calibrate(exported.folder, "synthetic:memes")
    answer = CliRunner().invoke(
        app, ["calibrate", str(exported.folder)]
    )  # not asked for data first
    assert "is an export" in str(answer.exception)


def test_a_model_without_temperatures_is_exported_as_it_is(
    own_run: RunDirectory, tmp_path: Path
) -> None:
    (own_run.student / CALIBRATION_NAME).unlink()
    manifest = read_json(own_run.student / "manifest.json")
    facts = {key: value for key, value in manifest.items() if key not in ("kind", "files")}
    write_manifest(own_run.student, "model", facts)
    (export,) = export_student(own_run, FP32)
    assert read_temperatures(export.folder) == UNCALIBRATED
    assert not (export.folder / CALIBRATION_NAME).exists()
    operators = {node.op_type for node in onnx.load(export.model_path).graph.node[-2:]}
    assert operators == {"Gemm", "Softmax"}
    shutil.rmtree(export.folder)


def test_author_and_license_are_in_the_metadata_of_a_file(own_run: RunDirectory) -> None:
    stated = replace(FP32, author="Ada", license="MIT")
    (export,) = export_student(own_run, stated)
    metadata = {entry.key: entry.value for entry in onnx.load(export.model_path).metadata_props}
    assert (metadata["author"], metadata["license"]) == ("Ada", "MIT")
    (plain,) = export_student(own_run, replace(FP32, overwrite=True))
    assert "author" not in {entry.key for entry in onnx.load(plain.model_path).metadata_props}
