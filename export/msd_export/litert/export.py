"""Export a student's graph to a float32 .tflite file through litert-torch.

The written file is then completed: metadata, names of inputs and outputs in the signature, and the
operator names that show the layers.
"""

from collections.abc import Mapping
from pathlib import Path

import litert_torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from torch import Tensor, nn

from msd_export.graph import ExportableGraph, example_inputs
from msd_export.litert.layers import name_constants
from msd_export.litert.program import read_model
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, ModelSignature


class StudentSignature(nn.Module):
    """A graph whose outputs have names; LiteRT numbers those of a tuple.

    Args:
        graph: The model with uint8 pixels [1, height, width, 3].
    """

    def __init__(self, graph: ExportableGraph) -> None:
        super().__init__()
        self.exported = graph  # GraphModules have a graph of their own

    def forward(
        self, image: Tensor, image_present: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Return logits and probabilities, float32 [1, classes]."""
        outputs = self.exported(image, image_present, input_ids, attention_mask)
        return dict(zip(OUTPUT_NAMES, outputs, strict=True))


def export_litert(graph: ExportableGraph, signature: ModelSignature, path: Path) -> None:
    """Write a float32 .tflite file that takes one example at a time.

    Args:
        graph: The model with uint8 pixels [1, height, width, 3].
        signature: Names and shapes.
        path: The file to write.
    """
    module = StudentSignature(graph).eval()
    examples = dict(zip(INPUT_NAMES, example_inputs(signature, batch=1), strict=True))
    # Not `export`, whose writer ends the whole process where the file cannot be written.
    path.write_bytes(litert_torch.convert(module, sample_kwargs=examples).model_content())


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
