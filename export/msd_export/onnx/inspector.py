"""Read .onnx and .ort files; ONNX Runtime reports which operators it computes in int8.

For that it writes its optimized graph, with all fusions, without running it.
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from msd_deploy.errors import ArtifactError
from msd_export.model_file import ModelFacts, TensorFacts
from msd_export.onnx.branches import laid_out
from msd_export.onnx.layers import stored_tensors
from msd_export.onnx.predictor import open_session

# Kernels with integer products, and the operators that they stand for.
_INT8_KERNELS = {
    "QGemm": "Gemm",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "ConvInteger": "Conv",
    "QAttention": "Attention",
}
_EITHER = frozenset({"Conv", "MatMul", "Gemm", "Add", "Clip", "Relu", "Gather", "MatMulNBits"})
_INT8_PREFIX = "QLinear"
_SIGNED = {"uint8": "int8", "uint4": "int4"}
_INT8_TYPES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_COUNTED = "int8 counts the operators that ONNX Runtime runs with integer kernels on this machine"


def read_onnx(path: Path) -> ModelFacts:
    """Read an .onnx file; see `model_file.Reader`."""
    try:
        model = onnx.load(path)
    # protobuf's error is no subclass of anything that onnx names.
    except Exception as error:
        raise ArtifactError(f"cannot be read as ONNX ({error})", where=path) from error
    session, running = _as_it_runs(path)
    stored = laid_out(model.graph)
    operators = Counter(node.op_type for node in stored.node)
    return _facts(session, running, operators, stored, (_COUNTED,))


def read_ort(path: Path) -> ModelFacts:
    """Read an .ort file; see `model_file.Reader`."""
    session, running = _as_it_runs(path)
    int8 = _int8_operators(running)
    operators = Counter(_plain_name(node.op_type) for node in running.node)
    note = "An .ort file keeps no graph of its own: operators and layers are as ONNX Runtime runs"
    operators.update(dict.fromkeys(int8, 0))
    return _facts(session, running, operators, running, (note, _COUNTED))


def count_weights_and_operators(path: Path) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Count what an .onnx or .ort file stores, and which of its operators compute in int8.

    Returns:
        Constants by type (float32, int8, int4, ...), signed or not, and of each type of operator
        that could compute in int8 {"int8": n, "float": m}.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """
    facts = (read_ort if path.suffix == ".ort" else read_onnx)(path)
    weights: Counter[str] = Counter()
    for tensor in facts.tensors:
        weights[_SIGNED.get(tensor.storage, tensor.storage)] += tensor.elements
    counts: dict[str, dict[str, int]] = {}
    for kernel, count in facts.operators.items():
        name = _plain_name(kernel)
        if name in _EITHER:
            row = counts.setdefault(name, {"int8": facts.int8_operators.get(name, 0), "float": 0})
            row["float"] += count
    for row in counts.values():
        row["float"] -= row["int8"]
    return dict(sorted(weights.items())), dict(sorted(counts.items()))


def _facts(
    session: onnxruntime.InferenceSession,
    running: onnx.GraphProto,
    operators: Counter[str],
    stored: onnx.GraphProto,
    notes: tuple[str, ...],
) -> ModelFacts:
    return ModelFacts(
        inputs=tuple(_tensor(value) for value in session.get_inputs()),
        outputs=tuple(_tensor(value) for value in session.get_outputs()),
        operators=dict(operators.most_common()),
        int8_operators=_int8_operators(running),
        tensors=stored_tensors(stored),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
        notes=notes,
    )


def _as_it_runs(path: Path) -> tuple[onnxruntime.InferenceSession, onnx.GraphProto]:
    """Open a file, and return the graph that is run, its branches laid out."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "running.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(written)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        return open_session(path, options), laid_out(onnx.load(written).graph)


def _int8_operators(running: onnx.GraphProto) -> dict[str, int]:
    stored = {t.name for t in running.initializer if t.data_type in _INT8_TYPES}
    counts: Counter[str] = Counter()
    for node in running.node:
        is_lookup = node.op_type == "Gather" and node.input[0] in stored
        is_kernel = node.op_type in _INT8_KERNELS or node.op_type.startswith(_INT8_PREFIX)
        if is_lookup or is_kernel:
            counts[_plain_name(node.op_type)] += 1
    return dict(counts)


def _plain_name(kernel: str) -> str:
    return _INT8_KERNELS.get(kernel, kernel.removeprefix(_INT8_PREFIX))


def _tensor(value: onnxruntime.NodeArg) -> TensorFacts:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    return TensorFacts(value.name, tuple(value.shape), dtype)
