"""Read .tflite files: the graph, its constants and what the file states of itself."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from msd_export.litert.program import (
    entries_of,
    indices,
    operator_name,
    operators_by_type,
    read_model,
)
from msd_export.model_file import ModelFacts, StoredTensor, TensorFacts, reading

_FREE = "?"
_OTHER = "other constants"
_TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
# Where a large file's buffers lie behind its table; 0 and 1 say that this one does not.
_LEAST_OFFSET = 2
_NOTES = (
    "int8 counts the operators that read int8: LiteRT computes them in integers, if only their"
    " weights are int8 too",
    "A constant without a name is counted to the type of the operator that reads it",
)


def read_litert(path: Path) -> ModelFacts:
    """Read a .tflite file; see `model_file.Reader`."""
    with reading("LiteRT", path):
        model = read_model(path)
        operators, integer = operators_by_type(model)
        main = model.subgraphs[0]
        names = _signature_names(model)
        return ModelFacts(
            inputs=tuple(_border(main.tensors[i], names.get(i)) for i in indices(main.inputs)),
            outputs=tuple(_border(main.tensors[i], names.get(i)) for i in indices(main.outputs)),
            operators=dict(operators.most_common()),
            int8_operators=dict(integer),
            tensors=tuple(_stored_tensors(model)),
            metadata=_metadata(model),
            notes=_NOTES,
            entry_points=tuple(
                signature.signatureKey.decode()
                for signature in model.signatureDefs or []
                if signature.subgraphIndex != 0
            ),
        )


def _signature_names(model: schema.ModelT) -> dict[int, str]:
    """Return what callers name the inputs and outputs of the first signature."""
    signatures = [s for s in model.signatureDefs or [] if s.subgraphIndex == 0][:1]
    entries = [entry for s in signatures for entry in (*(s.inputs or []), *(s.outputs or []))]
    return {entry.tensorIndex: entry.name.decode() for entry in entries}


def _border(tensor: schema.TensorT, name: str | None) -> TensorFacts:
    free = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    shape = tuple(_FREE if size < 0 else int(size) for size in free)
    return TensorFacts(name or _name(tensor), shape, _TYPES[tensor.type])


def _stored_tensors(model: schema.ModelT) -> Iterator[StoredTensor]:
    """Yield the constants, once each however many tensors share it."""
    seen: set[int] = set()
    for graph in model.subgraphs:
        readers = {
            index: operator_name(model, operator)
            for operator in reversed(graph.operators)
            for index in indices(operator.inputs)
        }
        for index, tensor in enumerate(graph.tensors):
            size = _size(model.buffers[tensor.buffer])
            if size > 0 and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                layer = _layer(_name(tensor)) or readers.get(index, _OTHER)
                yield _stored(layer, tensor, size)


def _size(buffer: schema.BufferT) -> int:
    if buffer.data is not None:
        return len(buffer.data)
    return int(buffer.size) if buffer.offset >= _LEAST_OFFSET else 0


def _stored(layer: str, tensor: schema.TensorT, size: int) -> StoredTensor:
    """Return a constant; one that is packed otherwise than by its shape, as bytes."""
    storage = _TYPES[tensor.type]
    found = re.search(r"\d+$", storage)
    bits, elements = int(found[0]) if found else 8, math.prod(map(int, tensor.shape))
    is_plain = math.ceil(elements * bits / 8) == size
    return StoredTensor(layer, storage, elements if is_plain else size, bits if is_plain else 8)


def _name(tensor: schema.TensorT) -> str:
    return str((tensor.name or b"").decode())


def _layer(name: str) -> str:
    """Return a tensor's layer: our own names are just that, those of others have slashes."""
    return name.partition(";")[0].replace("/", ".")


def _metadata(model: schema.ModelT) -> dict[str, str]:
    metadata = {"description": (model.description or b"").decode()} if model.description else {}
    return metadata | {name: _text(content) for name, content in entries_of(model).items()}


def _text(content: bytes) -> str:
    try:
        text = content.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return f"{len(content)} bytes"
    return text if text.isprintable() else f"{len(content)} bytes"
