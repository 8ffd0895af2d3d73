"""Export a student's graph to a float32 .tflite file through litert-torch.

A second signature takes a text alone; both share their weights. The written file is then completed:
metadata, names of inputs and outputs in the signatures, and the operator names that show the
layers.
"""

from collections.abc import Mapping
from pathlib import Path

import litert_torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from torch import Tensor, nn

from msd_export.graph import ExportableGraph, TextGraph, example_inputs, text_graph_of
from msd_export.litert.layers import name_constants
from msd_export.litert.predictor import MAIN_ENTRY
from msd_export.litert.program import read_model
from msd_export.signature import (
    INPUT_NAMES,
    OUTPUT_NAMES,
    TEXT_ENTRY,
    TEXT_INPUT_NAMES,
    ModelSignature,
)


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


class TextSignature(nn.Module):
    """The graph for a text alone, likewise.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: TextGraph) -> None:
        super().__init__()
        self.exported = graph

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return logits and probabilities, float32 [1, classes]."""
        return dict(zip(OUTPUT_NAMES, self.exported(input_ids, attention_mask), strict=True))


def export_litert(graph: ExportableGraph, signature: ModelSignature, path: Path) -> None:
    """Write a float32 .tflite file that takes one example at a time.

    Args:
        graph: The model with uint8 pixels [1, height, width, 3].
        signature: Names and shapes.
        path: The file to write.
    """
    module = StudentSignature(graph).eval()
    examples = dict(zip(INPUT_NAMES, example_inputs(signature, batch=1), strict=True))
    conversion = litert_torch.signature(MAIN_ENTRY, module, sample_kwargs=examples)
    text = text_graph_of(graph)
    if text is not None:
        texts = {name: examples[name] for name in TEXT_INPUT_NAMES}
        conversion.signature(TEXT_ENTRY, TextSignature(text).eval(), sample_kwargs=texts)
    # Not `export`, whose writer ends the whole process where the file cannot be written.
    path.write_bytes(conversion.convert().model_content())


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
    """Have each signature name its graph's own outputs.

    ai-edge-quantizer 0.10 leaves it at the integer tensor where an output that another operator
    reads is converted to float: LiteRT then has no such output.
    """
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        ends = [operator for operator in graph.operators if operator.outputs[0] in graph.outputs]
        floats = {operator.inputs[0]: operator.outputs[0] for operator in ends}
        for output in signature.outputs:
            if output.tensorIndex not in graph.outputs:
                output.tensorIndex = floats[output.tensorIndex]
