"""Which nodes of an ONNX file belong together: groups of layers, attention, sums of the stream."""

import onnx
from onnx import numpy_helper

from msd_export.layer_groups import ROOT, group_of_parameter

_WITH_WEIGHTS = frozenset({"Conv", "Gemm", "MatMul", "Gather"})


def layer_groups(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Divide the nodes of a file among groups, named as the model's modules are.

    A node with weights belongs to the module that they stand in (vision.blocks.3,
    layers.0.attention, classifier); any other to the group of what it reads first.

    Returns:
        Group to names of nodes, in the order of the graph; only groups that have weights.
    """
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1 and tensor.name.startswith(ROOT)
    }
    groups: dict[str, list[str]] = {}
    group_of: dict[str, str] = {}
    for node in model.graph.node:
        own = next((name for name in node.input if name in weights), None)
        own = own if node.op_type in _WITH_WEIGHTS else None
        read = next((name for name in node.input if name in group_of), None)
        group = group_of_parameter(own) if own is not None else group_of.get(read or "", "")
        if not group:
            continue
        if own is not None or group in groups:
            groups.setdefault(group, []).append(node.name)
        group_of.update(dict.fromkeys(node.output, group))
    return groups


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
