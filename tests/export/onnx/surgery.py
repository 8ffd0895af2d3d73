"""Change a saved ONNX file on purpose: its nodes, its weights, float or quantized."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


def edit_model(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change a file in place; nothing checks what comes out."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def edit_weight(path: Path, name: str, change: Callable[[Array], Array]) -> None:
    """Change a constant, or what was made of it in 8 bits."""

    def edit(model: onnx.ModelProto) -> None:
        names = (name, f"{name}_quantized")
        tensor = next(item for item in constants(model) if item.name in names)
        array = numpy_helper.to_array(tensor)
        changed = change(array.copy()).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))

    edit_model(path, edit)


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    """Return the operations of a type, in the order of the graph."""
    return [node for node in all_nodes(model.graph) if node.op_type == kind]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the operations of a graph; those of a branch just before the one that decides it."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)
        yield node


def constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield what a graph and its branches store."""
    yield from model.graph.initializer
    for node in all_nodes(model.graph):
        for attribute in node.attribute:
            yield from attribute.g.initializer


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def rename_reads(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    """Have every operation that reads one value read another instead."""
    for node in nodes:
        renamed = [names.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
