"""Finish a .tflite file: state what it is, mend its signature, keep the names that tell layers."""

from collections.abc import Mapping
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from torch import nn

from msd_export.litert_layers import name_constants
from msd_export.litert_program import read_model


def finish(path: Path, metadata: Mapping[str, str], graph: nn.Module) -> None:
    """Rewrite a .tflite file, finished.

    Args:
        path: The file.
        metadata: Each entry becomes an entry of the file's own, as UTF-8; its description too.
        graph: The exported graph; constants are named after its layers.
    """
    model = read_model(path)
    _mend_signature(model)
    name_constants(model, graph)
    model.description = metadata.get("description", "")
    model.metadata = list(model.metadata or [])
    for name, text in metadata.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(text.encode())
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(buffer)
        model.metadata.append(entry)
    flatbuffer_utils.write_model(model, str(path))


def _mend_signature(model: schema.ModelT) -> None:
    """Have the signature name the graph's own outputs.

    ai-edge-quantizer 0.10 leaves it at the integer tensor where an output that another operator
    reads is converted to float: LiteRT then has no such output.
    """
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    floats = {o.inputs[0]: o.outputs[0] for o in graph.operators if o.outputs[0] in graph.outputs}
    for output in signature.outputs:
        if output.tensorIndex not in graph.outputs:
            output.tensorIndex = floats[output.tensorIndex]
