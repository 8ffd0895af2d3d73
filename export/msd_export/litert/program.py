"""Read .tflite files: what they compute in integers."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from msd_export.model_file import OperatorCounts

_IDENTIFIER = slice(4, 8), b"TFL3"
_INT8 = schema.TensorType.INT8
# Between float and integer: no work of the model's own.
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


def read_model(path: Path) -> schema.ModelT:
    """Return a .tflite file's content.

    Raises:
        ValueError: It is not such a file; a damaged one raises whatever its bytes lead to.
    """
    content = path.read_bytes()
    place, identifier = _IDENTIFIER
    if content[place] != identifier:
        raise ValueError("it is not a .tflite file")
    return flatbuffer_utils.read_model_from_bytearray(content)


def indices(vector: Sequence[int] | None) -> list[int]:
    """Return the tensors that an operator or graph names; those that it leaves out are missing."""
    return [] if vector is None else [int(index) for index in vector if index >= 0]


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return an operator's type, for example CONV_2D; of a custom one, its own name."""
    custom = model.operatorCodes[operator.opcodeIndex].customCode
    name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
    return str(custom.decode() if custom else name or "unknown")


def operators_by_type(model: schema.ModelT) -> tuple[Counter[str], Counter[str]]:
    """Count the operators for image and text, and those of them that compute in 8-bit integers."""
    every: Counter[str] = Counter()
    integer: Counter[str] = Counter()
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = operator_name(model, operator)
        every[name] += 1
        used = [graph.tensors[index] for index in indices(operator.inputs)]
        if name not in CONVERSIONS and any(tensor.type == _INT8 for tensor in used):
            integer[name] += 1
    return every, integer


def count_operators(path: Path) -> OperatorCounts:
    """Count a .tflite file's operators and integer weights."""
    model = read_model(path)
    every, integer = operators_by_type(model)
    computing = sum(count for name, count in every.items() if name not in CONVERSIONS)
    weights = {
        tensor.buffer: math.prod(tensor.shape)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == _INT8 and model.buffers[tensor.buffer].data is not None
    }
    return OperatorCounts(integer.total(), computing - integer.total(), sum(weights.values()))


def entries_of(model: schema.ModelT) -> dict[str, bytes]:
    """Return the entries that a model has beside its graph."""
    return {
        entry.name.decode(): bytes(model.buffers[entry.buffer].data)
        for entry in model.metadata or []
        if model.buffers[entry.buffer].data is not None
    }


def metadata_of(path: Path) -> dict[str, str]:
    """Return the entries of a .tflite file as texts."""
    entries = entries_of(read_model(path))
    return {name: content.decode(errors="replace") for name, content in entries.items()}
