import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View
from msd_export.graph import ExportGraph, as_tensors
from msd_export.onnx_export import export_onnx
from msd_export.onnx_quantize import attention_nodes, count_int8_weights, quantize_onnx_int8
from msd_export.predictors import OnnxPredictor
from msd_export.signature import INPUT_NAMES, ModelSignature

SIGNATURE = ModelSignature((48, 48), 16, ("benign", "hateful"), "single_label")
METADATA = {"description": "a test", "labels": '["benign", "hateful"]', "source_digest": "ab"}
Memes = tuple[PreparedData, Preprocessor]


@pytest.fixture
def graph(tiny_model: FusionForClassification) -> ExportGraph:
    return ExportGraph(tiny_model, problem="single_label", image_layout="nhwc")


@pytest.fixture
def exported(graph: ExportGraph, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    export_onnx(graph, SIGNATURE, METADATA, path)
    return path


def test_the_file_states_names_shapes_types_and_metadata(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    assert inputs == {
        "image": ("tensor(uint8)", ["batch", 48, 48, 3]),
        "image_present": ("tensor(int32)", ["batch"]),
        "input_ids": ("tensor(int32)", ["batch", 16]),
        "attention_mask": ("tensor(int32)", ["batch", 16]),
    }
    outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    assert outputs == dict.fromkeys(("logits", "probabilities"), ("tensor(float)", ["batch", 2]))
    assert session.get_modelmeta().custom_metadata_map == METADATA


def test_the_file_holds_no_trace_of_the_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("view", list(View))
def test_logits_equal_pytorchs_for_every_batch_and_view(
    graph: ExportGraph, exported: Path, memes: Memes, rows: int, view: View
) -> None:
    inputs = memes[0].splits["test"].inputs(slice(0, rows), view)
    with torch.inference_mode():
        logits, _ = graph(*as_tensors(inputs))
    np.testing.assert_allclose(OnnxPredictor(exported).predict(inputs), logits.numpy(), atol=1e-4)


def test_a_prepared_call_answers_for_the_inputs_that_were_handed_over(
    exported: Path, memes: Memes
) -> None:
    predictor = OnnxPredictor(exported)
    first, second = (memes[0].splits["test"].inputs(slice(row, row + 1)) for row in (0, 1))
    calls = [predictor.prepare(inputs) for inputs in (first, second)]
    for call in (*calls, *calls):
        call()
    for call, inputs in zip(calls, (first, second), strict=True):
        np.testing.assert_array_equal(call.logits(), predictor.predict(inputs))
    assert not np.array_equal(calls[0].logits(), calls[1].logits())


def test_the_file_is_read_again_in_a_fresh_process_without_torch(
    graph: ExportGraph, exported: Path, memes: Memes, tmp_path: Path
) -> None:
    inputs = memes[0].splits["test"].inputs(slice(0, 3))
    for name in INPUT_NAMES:
        np.save(tmp_path / f"{name}.npy", inputs[name], allow_pickle=False)
    code = (
        "import json, sys, numpy as np, onnxruntime as ort\n"
        "names = sys.argv[3].split(',')\n"
        "feed = {n: np.load(f'{sys.argv[2]}/{n}.npy', allow_pickle=False) for n in names}\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps(session.run(['logits'], feed)[0].tolist()))\n"
    )
    command = [sys.executable, "-c", code, str(exported), str(tmp_path), ",".join(INPUT_NAMES)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    with torch.inference_mode():
        logits, _ = graph(*as_tensors(inputs))
    np.testing.assert_allclose(json.loads(answer.stdout), logits.numpy(), atol=1e-4)


def test_int8_is_really_int8_and_keeps_the_metadata(
    exported: Path, memes: Memes, tmp_path: Path
) -> None:
    quantized = tmp_path / "int8.onnx"
    calibration = memes[0].splits["train"].inputs(slice(0, 16))
    quantize_onnx_int8(exported, quantized, calibration)
    model = onnx.load(quantized)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    assert kept.items() >= METADATA.items()
    matrices = [
        int(np.prod(tensor.dims))
        for tensor in onnx.load(exported).graph.initializer
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    assert count_int8_weights(quantized) > 0.8 * sum(matrices)
    assert count_int8_weights(exported) == 0
    inputs = memes[0].splits["test"].inputs(slice(0, 64))
    error = OnnxPredictor(quantized).predict(inputs) - OnnxPredictor(exported).predict(inputs)
    assert np.abs(error).mean() < 0.1


def test_attention_stays_in_float(exported: Path) -> None:
    """Two layers: two products of activations each, and one addition of the mask each."""
    assert len(attention_nodes(exported)) == 6


def test_a_damaged_file_is_one_clear_error(exported: Path) -> None:
    exported.write_bytes(exported.read_bytes()[:-2000])
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        OnnxPredictor(exported)
