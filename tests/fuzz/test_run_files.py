"""Files of a run and of its exports: each is read as it stands, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_deploy.artifacts.manifest import Json, is_number
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.distill import DistillConfig
from msd_deploy.config.parsing import config_as_json
from msd_deploy.config.run import DataConfig, RunConfig, TeacherConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import printable
from msd_deploy.pipeline import run_distillation
from msd_deploy.report.predictions import check_comparable
from msd_deploy.report.run_files import read_metrics
from msd_deploy.run.record import RunRecord
from msd_export.config import ExportConfig
from msd_export.evaluate import evaluate_model
from msd_export.inspection import inspect_export, tables_of
from msd_export.opened_model import OpenedModel, open_model
from msd_export.pipeline import export_student
from tests.fuzz.folders import is_sound, read_changed, strict_json
from tests.fuzz.json_mutations import mutated_json

# An example loads a model twice.
few = settings(max_examples=25)

FILES_OF_AN_EXPORT = ("labels", "preprocess", "tokenizer", "manifest", "parity")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, memes_file: DataConfig) -> RunDirectory:
    """A finished run with an export to ONNX."""
    run = RunDirectory(tmp_path_factory.mktemp("sound") / "memes")
    teacher, distill = TeacherConfig(epochs=1), DistillConfig(epochs=1)
    run_distillation(RunConfig(data=memes_file, teacher=teacher, distill=distill), run)
    export_student(run, ExportConfig((("onnx", "fp32"),)))
    return run


@pytest.fixture
def run(sound: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(sound.root, tmp_path / "memes")))


def read_run(run: RunDirectory) -> tuple[RunRecord, Json]:
    (record,), _ = check_comparable([run])
    options = SourceOptions()
    return record, evaluate_model(run.root, None, options=options, split="test", threads=1)


@few
@given(data=st.data())
def test_a_run_is_of_the_settings_and_data_of_its_file(
    data: st.DataObject, run: RunDirectory, evaluated: Json
) -> None:
    content = json.loads(run.run_json.read_text())
    values = st.sampled_from(
        [
            *("synthetic:memes", "hub:x", "hub:x/y", "file:x", "vqa:.", "/dev/null", "a\0b", "fit"),
            *("crop", "kd", "msd", "none", "kl", "tiny", "mobile", content["dataset_digest"]),
        ]
    )
    raw = data.draw(mutated_json(content, values))
    said = strict_json(raw)
    named = spec_of(said)
    found = read_changed(run.run_json, raw, lambda: read_run(run), is_signed=False, named=named)
    assert found or not is_sound(raw, content)
    if found:
        record, result = found
        assert record.dataset_digest == said["dataset_digest"]
        assert_settings(config_as_json(record.config), said["config"])
        assert {**result, "data": evaluated["data"], "model": ""} == {**evaluated, "model": ""}


def spec_of(said: Any) -> list[str]:
    """Return the data set that a run.json names, which the errors of its reader name."""
    for key in ("config", "data", "spec"):
        said = said.get(key) if isinstance(said, dict) else None
    said = said if isinstance(said, str) else DataConfig().spec
    return [printable(said.partition(":")[2] or said)]


@pytest.fixture(scope="module")
def evaluated(sound: RunDirectory) -> Json:
    return read_run(sound)[1]


def assert_settings(read: Any, said: Any) -> None:
    """Check that every setting of a file was read as it stands.

    1 and 1.0 are one number, ./a and a one path; an empty path is none.
    """
    if isinstance(said, dict):
        assert said.keys() <= read.keys()
        for key, value in said.items():
            assert_settings(read[key], value)
    else:
        assert read == said or (said and isinstance(said, str) and read == str(Path(said)))
        assert isinstance(read, bool) == isinstance(said, bool)


@few
@given(data=st.data())
def test_metrics_are_those_of_the_file(data: st.DataObject, run: RunDirectory) -> None:
    content = json.loads(run.metrics.read_text())
    raw = data.draw(mutated_json(content, st.sampled_from(["multimodal", "accuracy"])))
    found = read_changed(run.metrics, raw, lambda: read_metrics(run), is_signed=False)
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        assert found == said
        assert all(is_number(said[model]["size_bytes"]) for model in ("teacher", "student"))


def open_export(folder: Path) -> tuple[OpenedModel, np.ndarray[Any, Any], Json]:
    model, inspection = open_model(folder), inspect_export(folder)
    tables_of(inspection)
    return model, logits_of(model), inspection.as_json()


def logits_of(model: OpenedModel) -> np.ndarray[Any, Any]:
    photo = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    given = [{"image": photo}, {"text": "look at him go"}, {"image": photo, "text": "[SEP] zebra"}]
    return np.stack([model.predict(**example).logits for example in given])  # type: ignore[arg-type]


@few
@given(data=st.data())
def test_an_export_is_what_its_model_states_or_refused(
    data: st.DataObject, run: RunDirectory, exported: tuple[OpenedModel, Any, Json]
) -> None:
    folder = run.exports / "onnx-fp32"
    name = data.draw(st.sampled_from(FILES_OF_AN_EXPORT))
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    values = st.sampled_from(["onnx", "fp32", "ort", "int8", "export", "benign", "crop", "argmax"])
    raw = data.draw(mutated_json(content, values))
    is_signed = name != "manifest"
    found = read_changed(path, raw, lambda: open_export(folder), is_signed=is_signed)
    said = strict_json(raw)
    assert found or not is_sound(raw, content)
    if found:
        model, logits, inspected = found
        assert (model.labels, model.problem) == (exported[0].labels, exported[0].problem)
        assert model.preprocessor.digest() == exported[0].preprocessor.digest()
        assert np.array_equal(logits, exported[1])
        assert name != "parity" or inspected["parity"] == said
        if name == "manifest":
            stated = [said["target"], said["precision"]]
            assert [inspected["target"], inspected["precision"]] == stated


@pytest.fixture(scope="module")
def exported(sound: RunDirectory) -> tuple[OpenedModel, np.ndarray[Any, Any], Json]:
    return open_export(sound.exports / "onnx-fp32")
