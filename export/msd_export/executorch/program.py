"""Read .pte files and the XNNPACK graphs in their delegates, by the schema that ExecuTorch ships.

Covers operators, constants and what is computed in integers. Running a file is not covered: see
`executorch/predictor.py`.
"""

import importlib.resources
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack import serialization
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import (
    DataLocation,
    DelegateCall,
    ExecutionPlan,
    KernelCall,
    Program,
    Tensor,
)

from msd_export.executorch.predictor import MAIN_METHOD
from msd_export.model_file import OperatorCounts, StoredTensor

BACKEND = "XnnpackBackend"
CONVERSION = "XNNConvert"
"""Between float and integer: no work of the model's own."""

_SCHEMA_NAME = "schema.fbs"
_INTEGER = ("xnn_datatype_qint8", "xnn_datatype_qcint8", "xnn_datatype_qdint8")
_DATATYPE = re.compile(r"xnn_datatype_[a-z]*?(fp|bf|uint|int)(\d+)$")
_FLOATS = {"fp": "float", "bf": "bfloat"}
Fields = dict[str, Any]  # as in the JSON of a flat buffer


def xnnpack_graph(content: bytes) -> Fields:
    """Return the graph in the content of a delegate.

    Raises:
        ValueError: It is damaged; what ExecuTorch makes of it may raise something else.
    """
    header = XNNHeader.from_bytes(content[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as scratch:
        schema, binary = Path(scratch) / _SCHEMA_NAME, Path(scratch) / "graph.bin"
        schema.write_bytes(
            importlib.resources.files(serialization).joinpath(schema.name).read_bytes()
        )
        binary.write_bytes(content[start : start + header.flatbuffer_size])
        try:
            _flatc_decompile(scratch, str(schema), str(binary), ["--raw-binary"])
        except subprocess.CalledProcessError as error:
            raise ValueError("an XNNPACK graph is damaged") from error
        text = binary.with_suffix(".json").read_text()
    # flatc writes the open end of a ReLU as inf, which is no JSON.
    graph: Fields = json.loads(re.sub(r"(-?)\binf\b", r"\1Infinity", text))
    return graph


def operators_of(graph: Fields) -> Iterator[tuple[str, bool]]:
    """Yield the type of each operator, and whether it reads or writes 8-bit integers.

    Conversions do not count as computing in integers.
    """
    tensors = _tensors(graph)
    for node in graph["xnodes"]:
        kind = str(node["xnode_union_type"])
        names, fields = ("input_id", "input1_id", "output_id"), node["xnode_union"]
        used = [tensors[fields[name]] for name in names if fields.get(name) in tensors]
        is_integer = any(tensor["datatype"] in _INTEGER for tensor in used)
        yield kind, is_integer and kind != CONVERSION


def int8_weights(graph: Fields) -> int:
    """Return how many numbers a graph's weights store as 8-bit integers."""
    return sum(
        math.prod(tensor["dims"])
        for tensor in _tensors(graph).values()
        if tensor["datatype"] in _INTEGER and tensor["constant_buffer_idx"] > 0
    )


def constants_of(
    graph: Fields, label: str, layers: Mapping[int, str]
) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a graph's constants, each with a key that equal ones share in the whole file.

    Args:
        graph: The graph.
        label: Of the delegate; an unknown layer is named after it and the operator.
        layers: By the debug handle of the operator that reads a constant.
    """
    readers = _readers(graph, label, layers)
    for value in graph["xvalues"]:
        tensor = _tensor(value)
        layer = readers.get(tensor["id_out"], f"{label}.constants")
        if index := tensor["constant_buffer_idx"]:
            storage, bits = _storage(tensor["datatype"])
            elements = math.prod(tensor["dims"])
            yield _key(graph, label, index), StoredTensor(layer, storage, elements, bits)
        quantization = value["xvalue_union"].get("quant_params", {})
        if index := quantization.get("scale_buffer_idx", 0):
            scales = StoredTensor(layer, "float32", quantization["num_scales"], 32)
            yield _key(graph, label, index), scales


def _readers(graph: Fields, label: str, layers: Mapping[int, str]) -> dict[int, str]:
    """Return the layer of what reads each value first, or its type and place: XNNConv2d 3."""
    readers: dict[int, str] = {}
    for place, node in enumerate(graph["xnodes"]):
        unknown = f"{label}.{node['xnode_union_type']} {place}"
        layer = layers.get(node["debug_handle"], unknown)
        for name, value in node["xnode_union"].items():
            if name.endswith("_id") and name != "output_id":
                readers.setdefault(value, layer)
    return readers


def _key(graph: Fields, label: str, index: int) -> str:
    return graph["constant_data"][index].get("named_key") or f"{label} {index}"


def _storage(datatype: str) -> tuple[str, int]:
    found = _DATATYPE.match(datatype)
    if found is None:
        return datatype, 8
    kind, bits = found.groups()
    return f"{_FLOATS.get(kind, kind)}{bits}", int(bits)


def _tensors(graph: Fields) -> dict[int, Fields]:
    return {tensor["id_out"]: tensor for tensor in map(_tensor, graph["xvalues"])}


def _tensor(value: Fields) -> Fields:
    """Return a value's tensor, without what a quantized one holds beside it."""
    tensor: Fields = value["xvalue_union"]
    inner: Fields = tensor.get("tensor_value", tensor)
    return inner


_IDENTIFIER = slice(4, 6), b"ET"  # a version follows


def read_program(path: Path) -> Program:
    """Return a .pte file's program.

    Raises:
        ValueError: It is not such a file; a damaged one raises whatever its bytes lead to.
    """
    content = path.read_bytes()
    place, identifier = _IDENTIFIER
    if content[place] != identifier:
        raise ValueError("it is not a .pte file")
    return deserialize_pte_binary(content).program


def delegates_of(program: Program, plan: ExecutionPlan) -> Iterator[tuple[str, bytes]]:
    """Yield the backend and the content of each delegate of a plan, in its order."""
    for delegate in plan.delegates:
        if delegate.processed.location != DataLocation.INLINE:
            raise ValueError("a delegate has no data")
        yield delegate.id, bytes(program.backend_delegate_data[delegate.processed.index].data)


def calls_of(plan: ExecutionPlan) -> Iterator[KernelCall | DelegateCall]:
    """Yield the calls of kernels and delegates of a plan, in its order."""
    for chain in plan.chains:
        for instruction in chain.instructions:
            if isinstance(instruction.instr_args, KernelCall | DelegateCall):
                yield instruction.instr_args


def count_operators(path: Path) -> OperatorCounts:
    """Count a .pte file's operators for image and text, and their integer weights."""
    program = read_program(path)
    plan = main_plan(program)
    integer, weights = 0, _int8_constants(plan)
    other = sum(isinstance(call, KernelCall) for call in calls_of(plan))
    for backend, content in delegates_of(program, plan):
        if backend == BACKEND:
            graph = xnnpack_graph(content)
            operators = [op for op in operators_of(graph) if op[0] != CONVERSION]
            integer += sum(is_integer for _, is_integer in operators)
            other += sum(not is_integer for _, is_integer in operators)
            weights += int8_weights(graph)
    return OperatorCounts(integer, other, weights)


def main_plan(program: Program) -> ExecutionPlan:
    """Return the plan of the method for image and text; of other programs, the first."""
    plans = program.execution_plan
    return next((plan for plan in plans if plan.name == MAIN_METHOD), plans[0])


def _int8_constants(plan: ExecutionPlan) -> int:
    tensors = [value.val for value in plan.values if isinstance(value.val, Tensor)]
    return sum(
        math.prod(tensor.sizes)
        for tensor in tensors
        if tensor.scalar_type == ScalarType.CHAR and tensor.data_buffer_idx > 0
    )
