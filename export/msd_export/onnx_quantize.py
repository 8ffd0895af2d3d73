"""int8 for ONNX Runtime: static quantization (QDQ), activations calibrated on training examples.

Weights are signed, symmetric and per channel; activations unsigned and per tensor. Weights use
seven of their eight bits: CPUs without VNNI add pairs of u8 * s8 products in 16 bits, which
saturates with full-range weights (microsoft/onnxruntime 5644), and the file must give the same
answers everywhere.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from msd_deploy.errors import ExportError
from msd_export.signature import ModelInputs, single_example

# The operators between convolutions too: a float one among integer ones costs two conversions.
QUANTIZED_OPERATORS = ("Conv", "MatMul", "Gemm", "Add", "Clip", "Relu", "Gather")


class _Examples:
    """Feeds calibration examples to ONNX Runtime's quantizer (its CalibrationDataReader)."""

    def __init__(self, inputs: ModelInputs) -> None:
        rows = range(len(inputs["image"]))
        self._examples = iter([single_example(inputs, row) for row in rows])

    def get_next(self) -> ModelInputs | None:
        """Return the next example, or None at the end."""
        return next(self._examples, None)

    def __iter__(self) -> Iterator[ModelInputs]:
        return self._examples

    def set_range(self, start_index: int, end_index: int) -> None:
        """Unused: all examples are calibrated at once."""


def quantize_onnx_int8(source: Path, destination: Path, calibration: ModelInputs) -> None:
    """Quantize an ONNX file to int8.

    Args:
        source: The float32 file.
        destination: The file to write.
        calibration: Training examples of all three views, whose activations set the scales.

    Raises:
        ExportError: The quantizer failed, or left the model in float.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with _quiet(), tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
            prepared = Path(scratch) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(destination),
                _Examples(calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPERATORS),
                nodes_to_exclude=attention_nodes(prepared),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    # The quantizer raises whatever its passes meet.
    except Exception as error:
        raise ExportError(f"int8 quantization failed ({error})", where=source.name) from error
    _restore_metadata(source, destination)
    if count_int8_weights(destination) == 0:
        raise ExportError("int8 quantization left every weight in float", where=source.name)


def attention_nodes(path: Path) -> list[str]:
    """Return the names of the nodes that compute attention itself, which stay in float.

    These are the products of two activations, and the additions of the mask: its -1e4 would stretch
    the scale of the scores until all of them fall into one step (measured: 56 % agreement).
    """
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    softmax_inputs = {node.input[0] for node in graph.node if node.op_type == "Softmax"}
    return [
        node.name
        for node in graph.node
        if (node.op_type == "MatMul" and not constants.intersection(node.input))
        or (node.op_type == "Add" and node.output[0] in softmax_inputs)
    ]


def count_int8_weights(path: Path) -> int:
    """Return the number of weights that an ONNX file stores as 8-bit integers."""
    wanted = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    initializers = onnx.load(path).graph.initializer
    return sum(int(np.prod(t.dims)) for t in initializers if t.data_type in wanted)


def _restore_metadata(source: Path, destination: Path) -> None:
    original, quantized = onnx.load(source), onnx.load(destination)
    properties = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(quantized, properties)
    quantized.producer_name, quantized.doc_string = original.producer_name, original.doc_string
    meanings = {value.name: value.doc_string for value in original.graph.input}
    for value in quantized.graph.input:
        value.doc_string = meanings[value.name]
    onnx.checker.check_model(quantized)
    onnx.save(quantized, destination)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice, which goes through the root logger, for a while."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
