import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from msd_deploy.data.prepared import PreparedData
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ArtifactError, ExportError
from msd_deploy.models.fusion import FusionForClassification
from msd_deploy.views import View
from msd_export.formats import CalibrationMethod
from msd_export.graph import ExportGraph, as_tensors
from msd_export.graph import layer_groups as groups_of_modules
from msd_export.layers import group_of
from msd_export.onnx.converter import convert_to_ort
from msd_export.onnx.export import export_onnx
from msd_export.onnx.inspector import count_weights_and_operators
from msd_export.onnx.layers import attention_nodes, layer_groups
from msd_export.onnx.predictor import OnnxPredictor
from msd_export.onnx.static_int8 import StaticQuantizer
from msd_export.onnx.weight_only import quantize_dynamic, quantize_int4, split_gemms, store_fp16
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


def test_a_prepared_call_predicts_for_the_inputs_that_it_was_given(
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


@pytest.fixture
def quantizer(exported: Path, memes: Memes) -> StaticQuantizer:
    return StaticQuantizer(exported, memes[0].splits["train"].inputs(slice(0, 16)))


def matrices(path: Path) -> int:
    return sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(path).graph.initializer
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
    )


def weights(path: Path) -> dict[str, int]:
    return count_weights_and_operators(path)[0]


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def mean_error(path: Path, exported: Path, memes: Memes) -> float:
    inputs = memes[0].splits["test"].inputs(slice(0, 64))
    error = OnnxPredictor(path).predict(inputs) - OnnxPredictor(exported).predict(inputs)
    return float(np.abs(error).mean())


def test_int8_is_really_int8_and_keeps_the_metadata(
    quantizer: StaticQuantizer, exported: Path, memes: Memes, tmp_path: Path
) -> None:
    quantized = tmp_path / "int8.onnx"
    quantizer.write(quantized)
    assert properties(quantized).items() >= METADATA.items()
    assert weights(quantized)["int8"] > 0.8 * matrices(exported)
    assert "int8" not in weights(exported)
    operators = count_weights_and_operators(quantized)[1]
    assert operators["Conv"] == {"int8": 3, "float": 0}
    assert operators["MatMul"]["float"] == 4  # attention's own products
    assert all(row["int8"] == 0 for row in count_weights_and_operators(exported)[1].values())
    assert mean_error(quantized, exported, memes) < 0.1


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_calibration_methods_give_other_scales_and_close_logits(
    exported: Path, memes: Memes, tmp_path: Path, method: CalibrationMethod
) -> None:
    calibration = memes[0].splits["train"].inputs(slice(0, 16))
    StaticQuantizer(exported, calibration).write(tmp_path / "minmax.onnx")
    StaticQuantizer(exported, calibration, method=method).write(tmp_path / "other.onnx")
    if method == "percentile":  # entropy may find that the whole range is best
        assert mean_error(tmp_path / "other.onnx", tmp_path / "minmax.onnx", memes) > 0
    assert mean_error(tmp_path / "other.onnx", exported, memes) < 0.2


def test_the_groups_are_the_models_modules_and_hold_every_node_with_weights(
    graph: ExportGraph, exported: Path
) -> None:
    """The projection's matrix lost its name when it was transposed: its bias tells."""
    model = onnx.load(exported)
    groups = layer_groups(model)
    assert sorted(groups) == sorted(
        [
            "vision.layers.0",
            "vision.layers.3",
            "vision.layers.6",
            "image_projection",
            "word_embeddings",
            "layers.0.attention",
            "layers.0.feed_forward",
            "layers.1.attention",
            "layers.1.feed_forward",
            "classifier",
        ]
    )
    grouped = [name for names in groups.values() for name in names]
    assert len(set(grouped)) == len(grouped)
    weighted = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert weighted <= set(grouped)
    assert set(groups) == set(groups_of_modules(graph))  # as ExecuTorch and LiteRT name them


@pytest.mark.parametrize(
    ("layer", "group"),
    [
        ("model.layers.0.attention.query", "layers.0.attention"),
        ("layers.10.feed_forward.2", "layers.10.feed_forward"),
        ("layers.0.attention_norm", "layers.0"),
        ("vision.layers.3", "vision.layers.3"),
        ("vision.blocks.1.depthwise.0", "vision.blocks.1"),
        ("vision.stem.0", "vision.stem"),
        (
            "vision.backbone.encoder.layer.0.attention.query",
            "vision.backbone.encoder.layer.0.attention",
        ),
        ("model.classifier", "classifier"),
        ("layers", "layers"),
    ],
)
def test_a_layer_has_one_group_whatever_the_target(layer: str, group: str) -> None:
    assert group_of(layer) == group


def test_groups_that_are_kept_stay_in_float_and_the_others_do_not(
    quantizer: StaticQuantizer, exported: Path, memes: Memes, tmp_path: Path
) -> None:
    whole, mixed = tmp_path / "whole.onnx", tmp_path / "mixed.onnx"
    quantizer.write(whole)
    quantizer.write(mixed, kept=["vision.layers.0", "classifier"])
    operators = count_weights_and_operators(mixed)[1]
    assert operators["Conv"] == {"int8": 2, "float": 1}
    assert weights(mixed)["int8"] < weights(whole)["int8"]
    everything = tmp_path / "float.onnx"
    quantizer.write(everything, kept=quantizer.groups)
    assert "int8" not in weights(everything)
    assert mean_error(everything, exported, memes) < 1e-5


def test_equal_zero_points_are_stored_once(quantizer: StaticQuantizer, tmp_path: Path) -> None:
    quantizer.write(tmp_path / "int8.onnx")
    tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
    contents = [
        (t.data_type, tuple(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in tensors
    ]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize(
    ("write", "stored", "limit"),
    [
        (store_fp16, {"float16": 0.8}, 0.01),
        (quantize_dynamic, {"int8": 0.3}, 0.1),
        (quantize_int4, {"int4": 0.3, "int8": 0.1}, 0.5),
    ],
    ids=["fp16", "int8-dynamic", "int4"],
)
def test_variants_without_calibration_store_what_they_state_and_stay_close(
    exported: Path, memes: Memes, tmp_path: Path, write: Any, stored: Any, limit: float
) -> None:
    path = tmp_path / "form.onnx"
    write(exported, path)
    for kind, share in stored.items():
        assert weights(path)[kind] > share * matrices(exported)
    assert properties(path).items() >= METADATA.items()
    assert path.stat().st_size < exported.stat().st_size
    assert 0 < mean_error(path, exported, memes) < limit


def test_a_gemm_is_the_same_as_a_product_and_a_sum(
    exported: Path, memes: Memes, tmp_path: Path
) -> None:
    model = onnx.load(exported)
    split_gemms(model)
    assert not [node for node in model.graph.node if node.op_type == "Gemm"]
    onnx.save(model, tmp_path / "split.onnx")
    assert mean_error(tmp_path / "split.onnx", exported, memes) < 1e-5


def test_a_weight_beyond_half_precision_is_named(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    (tensor,) = (t for t in model.graph.initializer if t.name == "model.word_embeddings.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = 1e6
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, exported)
    with pytest.raises(
        ExportError, match=r"model\.word_embeddings\.weight has values up to 1\.0e\+06"
    ):
        store_fp16(exported, tmp_path / "half.onnx")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_ort_file_gives_the_logits_of_the_onnx_file_that_it_was_made_from(
    exported: Path, quantizer: StaticQuantizer, memes: Memes, tmp_path: Path, precision: str
) -> None:
    source = exported
    if precision == "int8":
        source = tmp_path / "int8.onnx"
        quantizer.write(source)
    copy = tmp_path / "copy" / "model.onnx"
    copy.parent.mkdir()
    shutil.copyfile(source, copy)
    convert_to_ort(copy, tmp_path / "model.ort")
    assert (tmp_path / "model.ort").read_bytes()[4:8] == b"ORTM"
    assert mean_error(tmp_path / "model.ort", source, memes) < 1e-5


def test_attention_stays_in_float(exported: Path) -> None:
    """Two layers: two products of activations each, and one addition of the mask each."""
    assert len(attention_nodes(onnx.load(exported))) == 6


def test_a_damaged_file_is_one_clear_error(exported: Path) -> None:
    exported.write_bytes(exported.read_bytes()[:-2000])
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        OnnxPredictor(exported)
