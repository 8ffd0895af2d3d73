"""Export a graph to float32 ONNX through torch.export: dynamic batch, self-describing metadata.

Also what every ONNX file has: the metadata of the original, and the oldest format that holds it.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx
import torch

from msd_deploy.errors import ExportError
from msd_deploy.quiet import quiet_python
from msd_export.graph import ExportableGraph, example_inputs
from msd_export.signature import INPUT_NAMES, OUTPUT_NAMES, ModelSignature

# The first opset with Gelu as one operator (five otherwise); ONNX Runtime runs it since 1.17, in an
# .ort file since 1.18.
OPSET = 20
_INPUT_MEANING = {
    "image": "RGB picture, preprocessed as preprocess.json says; normalisation is inside",
    "image_present": "1 where the row shows its picture, 0 where the text decides alone",
    "input_ids": "tokens as preprocess.json says, padded on the right",
    "attention_mask": "1 for tokens, 0 for padding; the first token alone where there is no text",
}


def export_onnx(
    graph: ExportableGraph, signature: ModelSignature, metadata: Mapping[str, str], path: Path
) -> None:
    """Write a float32 ONNX file with a dynamic batch dimension.

    Args:
        graph: The model with uint8 pixels [batch, height, width, 3].
        signature: Names and shapes.
        metadata: Goes into the file's own metadata, beside labels and signature.
        path: The file to write.

    Raises:
        ExportError: The converter failed.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = {name: {0: batch} for name in INPUT_NAMES}
    try:
        with quiet_python(), torch.inference_mode():
            program = torch.onnx.export(
                graph,
                example_inputs(signature, batch=2),
                input_names=list(INPUT_NAMES),
                output_names=list(OUTPUT_NAMES),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    # The exporter wraps whatever its passes raise in its own, private types.
    except Exception as error:
        raise ExportError(
            f"the conversion to ONNX failed ({_reason(error)})", where=path.name
        ) from error
    assert program is not None
    model = program.model_proto
    _refuse_fixed_batch(model, path)
    _describe(model, metadata)
    save_onnx(model, path)


def _refuse_fixed_batch(model: onnx.ModelProto, path: Path) -> None:
    """Where code depends on the batch's size, torch.onnx falls back to the traced one, silently."""
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(
                f"the conversion to ONNX fixed the batch dimension of {value.name}", where=path.name
            )


def _describe(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """State what the file is inside it, and drop the traces of the machine that made it."""
    model.producer_name = "msd-deploy"
    model.doc_string = metadata.get("description", "")
    for value in model.graph.input:
        value.doc_string = _INPUT_MEANING[value.name]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))


def _reason(error: BaseException) -> str:
    """Return the first line of what the exporter failed over, not of its advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_like(original: onnx.ModelProto, model: onnx.ModelProto, path: Path) -> None:
    """Write a model that was made from another, with what that one states of itself.

    Raises:
        onnx.checker.ValidationError: It is no valid model.
    """
    properties = {entry.key: entry.value for entry in original.metadata_props}
    onnx.helper.set_model_props(model, properties)
    model.producer_name, model.doc_string = original.producer_name, original.doc_string
    model.producer_version = original.producer_version
    meanings = {value.name: value.doc_string for value in original.graph.input}
    for value in model.graph.input:
        value.doc_string = meanings[value.name]
    save_onnx(model, path)


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model in the oldest IR version of its opsets, without the domains it does not use.

    Libraries declare the newest IR version that they know, which older runtimes reject.

    Raises:
        onnx.checker.ValidationError: The model is not valid.
    """
    used = {node.domain for part in (model.graph, *model.functions) for node in _nodes(part.node)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    # Domains of a runtime's own are not in ONNX's table of versions.
    model.ir_version = onnx.helper.find_min_ir_version_for(kept, ignore_unknown=True)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
