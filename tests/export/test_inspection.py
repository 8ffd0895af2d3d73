import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from msd_cli.main import app
from msd_deploy.artifacts.manifest import write_manifest
from msd_deploy.artifacts.run_directory import RunDirectory
from msd_deploy.config.decisions import DecisionConfig
from msd_deploy.data.source import SourceOptions
from msd_deploy.errors import ArtifactError
from msd_export.calibrate import calibrate_model
from msd_export.config import ExportConfig
from msd_export.formats import FORMATS, Format
from msd_export.inspection import Inspection, inspect_export, tables_of
from msd_export.model_file import ModelFacts, StoredTensor, TensorFacts
from msd_export.onnx.layers import stored_tensors
from msd_export.pipeline import export_student
from tests.checkpoints import LFS_POINTER

FORMS = (("onnx", "int8"), ("ort", "int8"), ("coreml", "int8"))


@pytest.fixture(scope="module")
def exports(finished_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports in three formats; read them only."""
    root = tmp_path_factory.mktemp("inspected") / "run"
    run = RunDirectory(Path(shutil.copytree(finished_run.root, root)))
    decisions = DecisionConfig(abstain_below=0.6)
    calibrate_model(
        run.root, None, options=SourceOptions(), split="validation", decisions=decisions
    )
    stated = {"author": "Ada", "license": "MIT"}
    export_student(run, ExportConfig(FORMS, max_drop_points=100, examples=12, **stated))
    return run.exports


@pytest.mark.parametrize("form", ["onnx-int8", "ort-int8"])
def test_onnx_runtimes_files_show_what_runs_in_int8(exports: Path, form: str) -> None:
    facts = inspect_export(exports / form).facts
    assert facts.inputs[0] == TensorFacts("image", ("batch", 48, 48, 3), "uint8")
    assert [tensor.name for tensor in facts.outputs] == ["logits", "probabilities"]
    for name in ("Conv", "Gemm"):  # all of them; attention's products stay in float
        assert facts.int8_operators[name] == facts.operators[name] > 0
    assert facts.int8_operators.get("MatMul", 0) < facts.operators["MatMul"]
    assert facts.int8_operators["Gather"] == 1  # the embedding
    assert "Softmax" not in facts.int8_operators
    assert facts.metadata["problem"] == "single_label"
    storage = facts.storage()
    assert max(storage, key=storage.__getitem__) == "int8"
    groups = facts.groups()
    assert {"vision", "layers", "word_embeddings", "image_projection"} <= groups.keys()
    # Scales and padding apart, all that the file holds is some layer's.
    assert groups.get("other constants", 0) < 0.1 * sum(groups.values())


def test_a_core_ml_package_shows_its_weights_and_its_image_input(exports: Path) -> None:
    found = inspect_export(exports / "coreml-int8")
    assert found.facts.inputs[0] == TensorFacts("image", (48, 48, 3), "image")
    assert found.facts.inputs[2].dtype == "int32"
    assert found.facts.int8_operators == {}  # weights alone are in int8
    assert found.facts.storage()["int8"] > found.facts.storage()["float16"]
    assert "vision_layers_6" in found.facts.layers()
    assert sum(found.facts.storage().values()) < found.size_bytes


def test_a_folder_shows_its_source_and_how_it_was_verified(exports: Path) -> None:
    found = inspect_export(exports / "onnx-int8")
    stated = found.as_json()
    assert stated["precision"] == "int8"
    assert found.provenance is not None
    assert len(str(found.provenance["source_digest"])) == 64
    assert set(stated["files"]) == {  # type: ignore[call-overload]
        "model.onnx",
        "labels.json",
        "calibration.json",
        "tokenizer.json",
        "preprocess.json",
        "parity.json",
    }
    assert stated["parity"]["views"].keys() == {"multimodal", "image", "text"}  # type: ignore[index]


@pytest.mark.parametrize("form", ["onnx-int8", "ort-int8", "coreml-int8"])
def test_a_folder_shows_who_made_it_and_how_it_decides(exports: Path, form: str) -> None:
    found = inspect_export(exports / form)
    assert (found.facts.metadata["author"], found.facts.metadata["license"]) == ("Ada", "MIT")
    assert found.operating_point == found.as_json()["operating_point"] == "abstain_below=0.6"
    rows = dict(tables_of(found)[-1].rows)
    assert (rows["license"], rows["operating point"]) == ("MIT", "abstain_below=0.6")
    assert "entry points" not in rows


@pytest.mark.parametrize(
    ("file", "target"),
    [("onnx-int8/model.onnx", "onnx"), ("coreml-int8/model.mlpackage", "coreml")],
)
def test_a_file_alone_is_read_too(exports: Path, file: str, target: str) -> None:
    found = inspect_export(exports / file)
    assert found.target == target
    assert found.provenance is None
    assert found.facts.layers()


def test_the_command_shows_tables_or_json(exports: Path) -> None:
    shown = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["inspect", str(exports / "onnx-int8")])
    assert shown.exit_code == 0
    for expected in ("batch x 48 x 48 x 3", "By storage type", "word_embeddings", "parity, image"):
        assert expected in shown.stdout
    assert "The digests of all 6 files match." in shown.stderr
    answer = CliRunner().invoke(app, ["inspect", str(exports / "onnx-int8"), "--json"])
    assert json.loads(answer.stdout)["operators"]["Gemm"]["int8"] > 0


def test_an_altered_export_is_one_error(exports: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(exports / "onnx-int8", tmp_path / "onnx-int8"))
    (copied / "labels.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"labels\.json: was altered"):
        inspect_export(copied)
    answer = CliRunner().invoke(app, ["inspect", str(copied)])
    assert isinstance(answer.exception, ArtifactError)
    assert answer.exception.exit_code == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.onnx", "cannot be read as ONNX"),
        ("model.ort", "ONNX Runtime cannot load it"),
        ("model.mlpackage", "is not an .mlpackage"),
        ("model.txt", "is not a model file"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=message):
        inspect_export(tmp_path / name)


@pytest.mark.parametrize("entry", FORMATS.values(), ids=list(FORMATS))
def test_a_git_lfs_pointer_is_named_in_an_export_and_alone(tmp_path: Path, entry: Format) -> None:
    file = tmp_path / entry.model_file
    if entry.title == "Core ML":
        file = file / "Data" / "weight.bin"
        file.parent.mkdir(parents=True)
    file.write_text("a model")
    write_manifest(tmp_path, "export", {"target": "onnx", "precision": "fp32"})
    file.write_text(LFS_POINTER)
    for path in (tmp_path, tmp_path / entry.model_file):
        with pytest.raises(ArtifactError, match=rf"{file}: is a Git LFS pointer.*git lfs pull"):
            inspect_export(path)


def test_a_transposed_weight_belongs_to_the_layer_of_its_bias() -> None:
    """As a linear layer is written where its input has three dimensions."""
    weight, bias, named = (
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for shape, name in [((4, 2), "val_0"), ((2,), "model.head.bias"), ((3,), "model.scale")]
    )
    loose = numpy_helper.from_array(np.zeros(5, np.int64), "val_1")
    nodes = [
        helper.make_node("MatMul", ["x", "val_0"], ["product"]),
        helper.make_node("Add", ["product", "model.head.bias"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight, bias, named, loose])
    layers = [tensor.layer for tensor in stored_tensors(graph)]
    assert layers == ["head", "head", "scale", "other constants"]


def test_sizes_are_summed_largest_first() -> None:
    tensors = (
        StoredTensor("layers.0.query", "int8", 10, 8),
        StoredTensor("layers.0.query", "float32", 2, 32),
        StoredTensor("layers.1.query", "int4", 5, 4),
        StoredTensor("embeddings", "int8", 30, 8),
    )
    facts = ModelFacts((), (), {}, {}, tensors, {})
    assert list(facts.layers().items()) == [
        ("embeddings", 30),
        ("layers.0.query", 18),
        ("layers.1.query", 3),
    ]
    assert facts.groups() == {"embeddings": 30, "layers": 21}
    assert facts.storage() == {"int8": 40, "float32": 8, "int4": 3}


def test_names_in_a_file_do_not_steer_the_terminal() -> None:
    stored = StoredTensor("\x1b[2Jlayer\n", "int8", 1, 8)
    facts = ModelFacts((), (), {"\x07Conv": 1}, {}, (stored,), {"labels": '["höflich"]'})
    tables = tables_of(Inspection(Path("model.onnx"), "onnx", facts, 1))
    cells = [cell for table in tables for row in table.rows for cell in row]
    assert "\ufffd[2Jlayer\ufffd" in cells
    assert "\ufffdConv" in cells
    assert '["höflich"]' in cells


def test_looking_does_not_alter_the_export(exports: Path) -> None:
    for form in ("onnx-int8", "ort-int8", "coreml-int8"):
        inspect_export(exports / form)
        inspect_export(exports / form)  # digests are verified again
    model = onnx.load(exports / "onnx-int8" / "model.onnx")
    assert onnxruntime.InferenceSession(model.SerializeToString()).get_inputs()[0].name == "image"


def test_a_file_of_another_kind_names_what_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("nothing")
    with pytest.raises(ArtifactError, match=r"is not a model file.*\.onnx, \.ort, \.mlpackage"):
        inspect_export(file)


@pytest.mark.parametrize("form", ["onnx-int8", "ort-int8"])
def test_a_folded_table_is_no_part_of_a_norm(exports: Path, form: str) -> None:
    layers = inspect_export(exports / form).facts.layers()
    assert layers["image_projection"] > layers["layers.0.attention_norm"]
