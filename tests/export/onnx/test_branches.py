"""An exported ONNX file computes its image encoder only where a row has an image."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ConfigError
from msd_deploy.views import View
from msd_export.config import ExportConfig
from msd_export.formats import FORMATS, Precision
from msd_export.onnx.branches import branch_around_image_encoder, laid_out
from msd_export.onnx.converter import OnnxConverter, OrtConverter
from msd_export.onnx.export import OPSET
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.signature import INPUT_NAMES, ModelInputs
from msd_export.source import ExportSource

PRECISIONS = FORMATS["onnx"].precisions
Memes = tuple[PreparedData, Preprocessor]


@pytest.fixture(scope="module", params=PRECISIONS)
def pair(
    request: pytest.FixtureRequest, source: ExportSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same model with the branch and without."""
    precision: Precision = request.param
    folder = tmp_path_factory.mktemp(precision)
    paths = folder / "branched.onnx", folder / "flat.onnx"
    for path, skips in zip(paths, (True, False), strict=True):
        own = replace(source, scratch=folder, skips_image_encoder=skips)
        OnnxConverter(own).convert(precision, path)
    return paths


def mixed(inputs: ModelInputs) -> ModelInputs:
    """Every other row without its image."""
    present = np.arange(len(inputs["image"]), dtype=np.int32) % 2
    return {**inputs, "image_present": present}


def operators_run(path: Path, inputs: ModelInputs, folder: Path) -> set[str]:
    """What ONNX Runtime says that it ran."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {name: inputs[name] for name in INPUT_NAMES})
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


def test_logits_are_those_of_the_flat_file(pair: tuple[Path, Path], memes: Memes) -> None:
    test = memes[0].splits["test"]
    batches = [test.inputs(slice(0, rows), view) for rows in (1, 5) for view in View]
    for inputs in [*batches, mixed(batches[-3])]:
        branched, flat = (OnnxPredictor(path).predict(inputs) for path in pair)
        # int8-dynamic scales a product by all its tokens, masked ones too; logits are 30 apart.
        is_scaled = pair[0].parent.name.startswith("int8-dynamic")
        others = is_scaled and not inputs["image_present"].all()
        np.testing.assert_allclose(branched, flat, atol=0.5 if others else 1e-5)


def test_a_text_alone_runs_no_convolution(
    pair: tuple[Path, Path], memes: Memes, tmp_path: Path
) -> None:
    test = memes[0].splits["test"]
    convolutions = {
        view: {
            name
            for name in operators_run(pair[0], test.inputs(slice(0, 2), view), tmp_path)
            if "Conv" in name
        }
        for view in View
    }
    assert convolutions[View.MULTIMODAL]
    assert convolutions[View.IMAGE]
    assert not convolutions[View.TEXT]
    flat = operators_run(pair[1], test.inputs(slice(0, 2), View.TEXT), tmp_path)
    assert any("Conv" in name for name in flat)


def test_one_row_with_an_image_is_enough_for_the_encoder(
    pair: tuple[Path, Path], memes: Memes, tmp_path: Path
) -> None:
    inputs = mixed(memes[0].splits["test"].inputs(slice(0, 2)))
    assert any("Conv" in name for name in operators_run(pair[0], inputs, tmp_path))


def test_the_branch_costs_no_second_copy_of_the_weights(pair: tuple[Path, Path]) -> None:
    branched, flat = (laid_out(onnx.load(path).graph) for path in pair)
    # The sizes of what stands in for an image's tokens.
    assert len(branched.initializer) == len(flat.initializer) + 1
    names = {tensor.name for tensor in flat.initializer}
    assert names < {tensor.name for tensor in branched.initializer}
    assert pair[0].stat().st_size < pair[1].stat().st_size + 4096


def test_names_are_unique_and_metadata_stays(pair: tuple[Path, Path]) -> None:
    branched, flat = map(onnx.load, pair)
    made = [name for node in laid_out(branched.graph).node for name in node.output]
    assert len(set(made)) == len(made)
    assert branched.metadata_props == flat.metadata_props
    assert (branched.ir_version, branched.opset_import) == (flat.ir_version, flat.opset_import)


def test_an_ort_file_has_the_branch_too(
    own_source: ExportSource, memes: Memes, tmp_path: Path
) -> None:
    path = tmp_path / "model.ort"
    OrtConverter(own_source).convert("fp32", path)
    inputs = memes[0].splits["test"].inputs(slice(0, 2), View.TEXT)
    assert not any("Conv" in name for name in operators_run(path, inputs, tmp_path))


def test_a_model_without_an_image_encoder_stays_as_it_is(tmp_path: Path) -> None:
    kinds = {"image": onnx.TensorProto.UINT8}
    shapes = {"image": ["batch", 4, 4, 3], "image_present": ["batch"]}
    inputs = [
        helper.make_tensor_value_info(
            name, kinds.get(name, onnx.TensorProto.INT32), shapes.get(name, ["batch", 5])
        )
        for name in INPUT_NAMES
    ]
    cast = helper.make_node("Cast", ["input_ids"], ["logits"], to=onnx.TensorProto.FLOAT)
    output = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 5])
    model = helper.make_model(helper.make_graph([cast], "g", inputs, [output]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    content = path.read_bytes()
    assert not branch_around_image_encoder(path)
    assert path.read_bytes() == content


def encoder_model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The inputs of a student, an encoder e of the image with weights, and logits of some nodes."""
    rows: dict[str, list[str | int]] = {
        "image": ["batch", 2, 2, 3],
        "image_present": ["batch"],
        "input_ids": ["batch", 5],
        "attention_mask": ["batch", 5],
    }
    inputs = [
        helper.make_tensor_value_info(
            name, onnx.TensorProto.UINT8 if name == "image" else onnx.TensorProto.INT32, shape
        )
        for name, shape in rows.items()
    ]
    encode = [
        helper.make_node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["e"]),
        helper.make_node("Cast", ["image_present"], ["present"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["present", "one"], ["mask"]),
    ]
    weights = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    stored = [
        onnx.numpy_helper.from_array(weights, "w"),
        onnx.numpy_helper.from_array(np.array([1]), "one"),
        onnx.numpy_helper.from_array(np.full(5, 0.5, np.float32), "shared"),
    ]
    output = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["a", "b"])
    graph = helper.make_graph([*encode, *nodes], "g", inputs, [output], stored)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


MASKED = helper.make_node("Mul", ["e", "mask"], ["logits"])


def run(path: Path, present: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = len(present)
    pixels = np.random.default_rng(1).integers(0, 256, (rows, 2, 2, 3), dtype=np.uint8)
    ids = np.ones((rows, 5), np.int32)
    given = {"image": pixels, "image_present": np.array(present, np.int32), "input_ids": ids}
    names = {value.name for value in session.get_inputs()}
    feed = {name: array for name, array in given.items() if name in names}
    answer = session.run(["logits"], {**feed, "attention_mask": ids})[0]
    return np.asarray(answer, np.float32)


@pytest.mark.parametrize(
    "nodes",
    {
        "one result": [MASKED],
        "two results": [
            helper.make_node("Relu", ["e"], ["r"]),
            helper.make_node("Add", ["e", "r"], ["s"]),
            helper.make_node("Mul", ["s", "mask"], ["a"]),
            helper.make_node("Mul", ["r", "mask"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["logits"]),
        ],
        "a weight of both": [
            helper.make_node("Add", ["e", "shared"], ["s"]),
            helper.make_node("Mul", ["s", "mask"], ["a"]),
            helper.make_node("Add", ["a", "shared"], ["logits"]),
        ],
        "rows counted from the image": [
            helper.make_node("Shape", ["image"], ["n"], start=0, end=1),
            helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
            helper.make_node("Unsqueeze", ["zeros", "one"], ["z"]),
            helper.make_node("Mul", ["e", "mask"], ["a"]),
            helper.make_node("Add", ["a", "z"], ["logits"]),
        ],
    }.items(),
    ids=lambda case: case[0],
)
def test_other_graphs_answer_as_before(
    nodes: tuple[str, list[onnx.NodeProto]], tmp_path: Path
) -> None:
    flat, branched = tmp_path / "flat.onnx", tmp_path / "branched.onnx"
    for path in (flat, branched):
        onnx.save(encoder_model(*nodes[1]), path)
    assert branch_around_image_encoder(branched)
    for present in ([1], [0], [1, 0], [0, 0, 0], [1, 1, 1, 0, 1]):
        np.testing.assert_allclose(run(branched, present), run(flat, present), atol=1e-5)
    assert not branch_around_image_encoder(branched)  # it has one


@pytest.mark.parametrize(
    "nodes",
    {
        "the encoder is the output": [helper.make_node("Identity", ["e"], ["logits"])],
        "its size is read elsewhere": [
            helper.make_node("Shape", ["e"], ["n"]),
            helper.make_node("Cast", ["n"], ["c"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["c"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "mask"], ["logits"]),
        ],
        "its first axis is not the rows": [
            helper.make_node("Transpose", ["e"], ["t"]),
            helper.make_node("Squeeze", ["mask", "one"], ["m"]),
            helper.make_node("Mul", ["t", "m"], ["logits"]),
        ],
    }.items(),
    ids=lambda case: case[0],
)
def test_a_graph_that_zeros_cannot_stand_in_for_stays_as_it_is(
    nodes: tuple[str, list[onnx.NodeProto]], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(encoder_model(*nodes[1]), path)
    content = path.read_bytes()
    assert not branch_around_image_encoder(path)
    assert path.read_bytes() == content


def test_a_flat_file_is_an_option_of_onnx_alone() -> None:
    assert ExportConfig((("ort", "fp32"), ("litert", "fp32")), flat=True).flat
    with pytest.raises(ConfigError, match="flat: requires the target onnx or ort"):
        ExportConfig((("litert", "fp32"),), flat=True)
