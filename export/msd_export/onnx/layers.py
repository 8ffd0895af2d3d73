"""Layers of an ONNX file: groups of nodes, and the layer of each constant.

Exporters keep a parameter's name (model.layers.0.attention.query.weight) unless they transpose it:
such a constant gets the layer of its neighbour, usually the bias that is added to its product. A
table that is itself added is the folded sum of position and type embeddings.
"""

import math
import re
from collections import defaultdict

import onnx
from onnx import numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from msd_export.layers import ROOT, group_of
from msd_export.model_file import StoredTensor

_MADE = re.compile(r"(_quantized|_scale|_zero_point|_DynamicQuantizeLinear|_Q4|_q4)+$")
# Equal ones are stored once, so that they bear the name of any layer that has them.
_SHARED = ("_scale", "_zero_point")
_PARAMETER = re.compile(r"\.[^.]*$")
_OTHER, _TABLES = "other constants", "positions and types"
# Product, quantized, dequantized, sum: what lies between a quantized weight and its bias.
_STEPS = 6
_BITS: dict[int, int] = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}
_NAMES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}


def stored_tensors(graph: onnx.GraphProto) -> tuple[StoredTensor, ...]:
    """Return every constant of a graph, in its order."""
    neighbours = _Neighbours(graph)
    packed = _packed_names(graph)
    return tuple(
        StoredTensor(
            layer=layer_of(tensor.name)
            or neighbours.layer(tensor.name, is_table=len(tensor.dims) > 1)
            or _OTHER,
            storage=_storage(tensor, packed),
            elements=_elements(tensor, packed),
            bits=4 if tensor.name in packed else _bits(tensor.data_type),
        )
        for tensor in graph.initializer
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


_WITH_WEIGHTS = frozenset({"Conv", "Gemm", "MatMul", "Gather"})


def layer_groups(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Divide the nodes of a file among groups, named as the model's modules are.

    A node with weights belongs to the group of their layer (vision.blocks.3, layers.0.attention,
    classifier), any other to the group of what it reads first.

    Returns:
        Group to names of nodes, in the order of the graph; only groups that have weights.
    """
    layers = _layers_with_weights(model.graph)
    groups: dict[str, list[str]] = {}
    made_in: dict[str, str] = {}
    for node in model.graph.node:
        layer = layers.get(node.name)
        read = next((name for name in node.input if name in made_in), None)
        group = group_of(layer) if layer is not None else made_in.get(read or "", "")
        if not group:
            continue
        if layer is not None or group in groups:
            groups.setdefault(group, []).append(node.name)
        made_in.update(dict.fromkeys(node.output, group))
    return groups


def _layers_with_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the layer of each node with weights.

    A matrix that the exporter transposed lost its name: it goes by the bias that is added to its
    product.
    """
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    summands: dict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Add":
            for name in node.input:
                summands[name] += [n for n in node.input if n in sizes and n.startswith(ROOT)]
    layers: dict[str, str] = {}
    for node in graph.node:
        weights = [name for name in node.input if sizes.get(name, 0) > 1]
        if node.op_type in _WITH_WEIGHTS and weights:
            named = [name for name in weights if name.startswith(ROOT)]
            if layer := layer_of(next(iter(named + summands[node.output[0]]), "")):
                layers[node.name] = layer
    return layers


def attention_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that compute attention itself, which stay in float.

    These are the products of two activations, and the additions of the mask: its -1e4 would stretch
    the scale of the scores until all of them fall into one step (measured: 56 % agreement).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    softmax_inputs = {node.input[0] for node in model.graph.node if node.op_type == "Softmax"}
    return [
        node.name
        for node in model.graph.node
        if (node.op_type == "MatMul" and not constants.intersection(node.input))
        or (node.op_type == "Add" and node.output[0] in softmax_inputs)
    ]


def stream_sums(model: onnx.ModelProto) -> list[str]:
    """Return the names of the additions that no convolution feeds, which stay in float.

    They are the residual sums of the transformer and what is added to embeddings. Their neighbours,
    normalisation and softmax, are in float anyway, so that integers would gain no time; and they
    lose much (measured on a mobile student, on the text alone: divergence .068, .0014 without).
    """
    convolved = {
        name for node in model.graph.node if node.op_type == "Conv" for name in node.output
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Add" and convolved.isdisjoint(node.input)
    ]


def depthwise_weights(model: onnx.ModelProto) -> list[str]:
    """Return the names of the weights of depthwise convolutions: a filter for each channel."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.input[1]
        for node in model.graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] == 1
    ]


def share_equal_weights(model: onnx.ModelProto) -> None:
    """Store equal initializers once: a quantizer writes the same zero points for every operator."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in model.graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    kept = [tensor for tensor in model.graph.initializer if renamed[tensor.name] == tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
