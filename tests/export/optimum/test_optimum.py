import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from msd_deploy.artifacts.manifest import CARD_NAME
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.run.record import data_of_run, read_run
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.graph import ExportGraph
from msd_export.onnx.inspector import count_weights_and_operators
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.pipeline import export_student
from msd_export.predictors import open_predictor
from msd_export.signature import INPUT_NAMES, single_example

pytest.importorskip("optimum")

from optimum.exporters.base import ExporterConfig
from optimum.modeling_base import OptimizedModel
from optimum.quantization_base import OptimumQuantizer

from msd_export.optimum import model as optimum_model
from msd_export.optimum.config import ClassifierExporterConfig
from msd_export.optimum.model import ExportedModel
from msd_export.optimum.quantizer import OnnxQuantizer

FORMS = (("onnx", "fp32"), ("coreml", "fp16"))


@pytest.fixture(scope="module")
def run(finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with an ONNX and a Core ML export; read it only."""
    root = tmp_path_factory.mktemp("optimum") / "run"
    copied = RunDirectory(Path(shutil.copytree(finished_run.root, root)))
    export_student(copied, ExportConfig(FORMS, max_drop_points=100, examples=12))
    return copied


@pytest.fixture(scope="module")
def model(run: RunDirectory) -> ExportedModel:
    return ExportedModel.from_pretrained(run.exports / "onnx-fp32")


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_an_export_is_an_optimized_model_with_a_configuration(model: ExportedModel) -> None:
    assert isinstance(model, OptimizedModel)
    assert model.config.id2label == {0: "benign", 1: "hateful"}
    assert model.config.problem_type == "single_label_classification"
    assert (model.config.target, model.config.precision) == ("onnx", "fp32")
    assert model.config.image_size == [48, 48]


@pytest.mark.parametrize("form", ["onnx-fp32", "coreml-fp16"])
def test_inputs_that_were_made_before_give_the_predictors_logits(
    run: RunDirectory, form: str
) -> None:
    opened = ExportedModel.from_pretrained(str(run.exports), subfolder=form)
    inputs: Any = data_of_run(read_run(run), opened.preprocessor).splits["test"].inputs(slice(0, 2))
    answer = opened(**inputs)
    expected = open_predictor(opened.export.target, opened.export.model_path).predict(inputs)
    np.testing.assert_array_equal(answer.logits, expected)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1)


def test_images_and_texts_are_prepared(model: ExportedModel, tmp_path: Path) -> None:
    image = picture()
    (tmp_path / "p.png").write_bytes(png(image))
    answers = [
        model(image=given, text="look the guests came").logits
        for given in (image, png(image), tmp_path / "p.png", str(tmp_path / "p.png"))
    ]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])
    several = model(image=[image, None], text=["look the guests came", "a text alone"]).logits
    np.testing.assert_allclose(several[0], answers[0][0], atol=1e-5)
    np.testing.assert_allclose(several[1], model(text="a text alone").logits[0], atol=1e-5)
    assert not np.allclose(model(image=image).logits, answers[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to classify"),
        ({"image": [None, None], "text": "a"}, "2 images and 1 texts to classify"),
        (
            {"input_ids": np.zeros((1, 16), np.int32)},
            "input_ids are given without image, image_present",
        ),
    ],
)
def test_what_cannot_be_classified_is_refused(
    model: ExportedModel, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model(**arguments)


@pytest.mark.parametrize("form", ["onnx-fp32", "coreml-fp16"])
def test_a_saved_model_is_the_same_export(run: RunDirectory, form: str, tmp_path: Path) -> None:
    opened = ExportedModel.from_pretrained(run.exports / form)
    opened.save_pretrained(tmp_path / "saved")
    again = ExportedModel.from_pretrained(tmp_path / "saved")
    assert again.export.manifest == opened.export.manifest
    np.testing.assert_array_equal(again(text="look").logits, opened(text="look").logits)


def test_code_of_a_checkpoint_is_refused_and_so_is_what_is_no_export(
    run: RunDirectory, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="code from a checkpoint is never run"):
        ExportedModel.from_pretrained(run.exports / "onnx-fp32", trust_remote_code=True)
    with pytest.raises(ConfigError, match="cannot be exported while it is loaded"):
        ExportedModel.from_pretrained(run.student, export=True)
    with pytest.raises(ArtifactError, match="is a folder of kind 'model'"):
        ExportedModel.from_pretrained(run.student)
    with pytest.raises(
        ArtifactError, match="is neither an export folder nor a repository on the Hub"
    ):
        ExportedModel.from_pretrained("owner/none")
    altered = Path(shutil.copytree(run.exports / "onnx-fp32", tmp_path / "altered"))
    (altered / "labels.json").write_text("{}")
    with pytest.raises(ArtifactError, match="was altered"):
        ExportedModel.from_pretrained(altered)


def test_only_the_manifests_files_are_requested_from_the_hub(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def download(repository: str, *, allow_patterns: list[str], revision: str) -> str:
        assert (repository, revision) == ("owner/name", "v1")
        asked.append(allow_patterns)
        return str(run.exports)

    monkeypatch.setattr(optimum_model, "snapshot_download", download)
    ExportedModel.from_pretrained("owner/name", subfolder="onnx-fp32", revision="v1")
    assert asked[0] == ["onnx-fp32/manifest.json"]
    names = {path.name for path in (run.exports / "onnx-fp32").iterdir()} - {CARD_NAME}
    assert set(asked[1]) == {f"onnx-fp32/{name}" for name in names}


def test_an_upload_keeps_the_folders_of_a_package(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None) -> None: ...

        def create_repo(self, **arguments: Any) -> None:
            sent["private"] = arguments["private"]

        def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
            sent["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            return f"hub/{repo_id}"

    monkeypatch.setattr(optimum_model, "HfApi", Hub)
    opened = ExportedModel.from_pretrained(run.exports / "coreml-fp16")
    address = opened.save_pretrained(
        str(tmp_path / "saved"), push_to_hub=True, repository_id="me/it", private=True
    )
    assert address == "hub/me/it"
    assert sent["private"] is True
    assert "model.mlpackage" in sent["files"]


def test_the_signature_makes_inputs_that_the_graph_takes(
    tiny_model: FusionForClassification, model: ExportedModel
) -> None:
    config = ClassifierExporterConfig(tiny_model.config)
    assert isinstance(config, ExporterConfig)
    assert tuple(config.inputs) == INPUT_NAMES
    assert config.outputs == {"logits": {0: "batch"}, "probabilities": {0: "batch"}}
    dummy = config.generate_dummy_inputs(framework="pt", batch_size=3)
    graph = ExportGraph(tiny_model, problem="single_label", image_layout="nhwc")
    with torch.inference_mode():
        logits, _ = graph(*dummy.values())
    assert logits.shape == (3, 2)
    exported = ClassifierExporterConfig(model.config)
    assert model(**exported.generate_dummy_inputs(framework="np")).logits.shape == (2, 2)


def test_the_quantizer_writes_int8(run: RunDirectory, model: ExportedModel, tmp_path: Path) -> None:
    quantizer = OnnxQuantizer.from_pretrained(model)
    assert isinstance(quantizer, OptimumQuantizer)
    split = data_of_run(read_run(run), model.preprocessor).splits["train"]
    calibration = split.inputs(slice(0, 16), View.MULTIMODAL)
    path = quantizer.quantize(tmp_path / "out", calibration=calibration)
    assert path == tmp_path / "out" / "model_quantized.onnx"
    assert count_weights_and_operators(path)[0]["int8"] > 0
    inputs = single_example(calibration, 0)
    assert OnnxPredictor(path).predict(inputs).shape == (1, 2)
    with pytest.raises(ArtifactError, match="is an export to coreml-fp16, and only onnx-fp32"):
        OnnxQuantizer.from_pretrained(run.exports / "coreml-fp16")


def test_nothing_else_imports_optimum() -> None:
    code = (
        "import sys, msd_cli.main, msd_export.pipeline, msd_export.inspection\n"
        "assert 'optimum' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
