"""Count what a .pte file computes in integers, from the file itself.

Reads the program and, by the schema that ExecuTorch ships, the graphs of XNNPACK inside it.
"""

import importlib.resources
import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from executorch.backends.xnnpack import serialization
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from executorch.exir.schema import KernelCall, Program, Tensor

from msd_export.operator_counts import OperatorCounts

_SCHEMA_NAME = "schema.fbs"
_INTEGER = ("xnn_datatype_qint8", "xnn_datatype_qcint8", "xnn_datatype_qdint8")
# Between float and integer: no work of the model's own.
_CONVERSION = "XNNConvert"
Fields = dict[str, Any]  # as in the JSON of a flat buffer


def count_operators(path: Path) -> OperatorCounts:
    """Count a .pte file's operators and integer weights."""
    program = deserialize_pte_binary(path.read_bytes()).program
    integer, other, weights = 0, _kernel_calls(program), _int8_constants(program)
    for graph in _xnnpack_graphs(program):
        values = {value["id_out"]: value for value in map(_tensor_of, graph["xvalues"])}
        for node in graph["xnodes"]:
            if node["xnode_union_type"] != _CONVERSION:
                is_integer = _computes_in_integers(node["xnode_union"], values)
                integer, other = integer + is_integer, other + (not is_integer)
        weights += sum(_int8_elements(value) for value in values.values())
    return OperatorCounts(integer, other, weights)


def _kernel_calls(program: Program) -> int:
    instructions = [i for p in program.execution_plan for c in p.chains for i in c.instructions]
    return sum(isinstance(i.instr_args, KernelCall) for i in instructions)


def _int8_constants(program: Program) -> int:
    tensors = [value.val for plan in program.execution_plan for value in plan.values]
    return sum(
        math.prod(tensor.sizes)
        for tensor in tensors
        if isinstance(tensor, Tensor)
        and tensor.scalar_type == ScalarType.CHAR
        and tensor.data_buffer_idx > 0
    )


def _xnnpack_graphs(program: Program) -> Iterator[Fields]:
    with tempfile.TemporaryDirectory() as scratch:
        schema, binary = Path(scratch) / _SCHEMA_NAME, Path(scratch) / "graph.bin"
        schema.write_bytes(
            importlib.resources.files(serialization).joinpath(schema.name).read_bytes()
        )
        for delegate in program.backend_delegate_data:
            header = XNNHeader.from_bytes(delegate.data[: XNNHeader.EXPECTED_LENGTH])
            start = header.flatbuffer_offset
            binary.write_bytes(delegate.data[start : start + header.flatbuffer_size])
            _flatc_decompile(scratch, str(schema), str(binary), ["--raw-binary"])
            text = binary.with_suffix(".json").read_text()
            # flatc writes the open end of a ReLU as inf, which is no JSON.
            graph: Fields = json.loads(re.sub(r"(-?)\binf\b", r"\1Infinity", text))
            yield graph


def _tensor_of(value: Fields) -> Fields:
    """Return a value's tensor, with what a quantized one holds beside it."""
    tensor: Fields = value["xvalue_union"]
    inner: Fields = tensor.get("tensor_value", tensor)
    return inner


def _computes_in_integers(node: Fields, values: dict[int, Fields]) -> bool:
    names = ("input_id", "input1_id", "output_id")
    used = [values[node[name]] for name in names if node.get(name) in values]
    return any(value["datatype"] in _INTEGER for value in used)


def _int8_elements(value: Fields) -> int:
    is_weight = value["datatype"] in _INTEGER and value["constant_buffer_idx"] > 0
    return math.prod(value["dims"]) if is_weight else 0
