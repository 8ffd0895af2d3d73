"""The constants of an ONNX graph by the layer that they belong to.

Exporters keep a parameter's name (model.layers.0.attention.query.weight) unless they transpose it:
such a constant takes the layer of its neighbour, mostly the bias that is added to its product. A
table that is added itself is what was folded of positions and types.
"""

import math
import re
from collections import defaultdict

import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from msd_export.layer_names import ROOT
from msd_export.model_facts import StoredTensor

_MADE = re.compile(r"(_quantized|_scale|_zero_point|_DynamicQuantizeLinear|_Q4|_q4)+$")
# Equal ones are stored once, so that they bear the name of any layer that has them.
_SHARED = ("_scale", "_zero_point")
_PARAMETER = re.compile(r"\.[^.]*$")
_OTHER, _TABLES = "other constants", "positions and types"
# Product, quantized, dequantized, sum: what lies between a quantized weight and its bias.
_STEPS = 6
_BITS: dict[int, int] = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}
_NAMES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}


def stored_tensors(model: onnx.ModelProto) -> tuple[StoredTensor, ...]:
    """Return every constant of a graph, in its order."""
    neighbours = _Neighbours(model.graph)
    packed = _packed_names(model.graph)
    return tuple(
        StoredTensor(
            layer=layer_of(tensor.name)
            or neighbours.layer(tensor.name, is_table=len(tensor.dims) > 1)
            or _OTHER,
            storage=_storage(tensor, packed),
            elements=_elements(tensor, packed),
            bits=4 if tensor.name in packed else _bits(tensor.data_type),
        )
        for tensor in model.graph.initializer
    )


def _packed_names(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the constants that hold two 4-bit weights a byte."""
    return frozenset(node.input[1] for node in graph.node if node.op_type == "MatMulNBits")


def _storage(tensor: onnx.TensorProto, packed: frozenset[str]) -> str:
    if tensor.name in packed:
        return "int4"
    return _NAMES.get(tensor.data_type, _type_name(tensor.data_type))


def _elements(tensor: onnx.TensorProto, packed: frozenset[str]) -> int:
    elements: int = math.prod(tensor.dims)
    return elements * 2 if tensor.name in packed else elements


def layer_of(name: str) -> str | None:
    """Return the module of a parameter by its name: without model. in front, and its own name."""
    plain = _MADE.sub("", name)
    if not plain.startswith(ROOT):
        return None
    path = plain.removeprefix(ROOT)
    return _PARAMETER.sub("", path)


def _type_name(data_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(data_type)).lower()


def _bits(data_type: int) -> int:
    return _BITS.get(data_type) or tensor_dtype_to_np_dtype(data_type).itemsize * 8


class _Neighbours:
    """Finds a named constant near one without a name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._maker: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
            self._maker.update(dict.fromkeys(node.output, node))

    def layer(self, name: str, *, is_table: bool = False) -> str | None:
        """Return the layer of the first named constant among those that meet its product."""
        if is_table and any(node.op_type == "Add" for node in self._readers[name]):
            return _TABLES
        wave = [name]
        for _ in range(_STEPS):
            nodes = [node for tensor in wave for node in self._readers[tensor]]
            for node in nodes:
                for other in node.input:
                    if found := self._named(other):
                        return found
            wave = [tensor for node in nodes for tensor in node.output]
        return None

    def _named(self, tensor: str) -> str | None:
        maker = self._maker.get(tensor)
        if maker is not None and maker.op_type == "DequantizeLinear":
            tensor = maker.input[0]
        return None if tensor.endswith(_SHARED) else layer_of(tensor)
