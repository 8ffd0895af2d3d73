"""What every pass over an ONNX file shares: it keeps what the file states of itself."""

from pathlib import Path

import onnx


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
    onnx.checker.check_model(model)
    onnx.save(model, path)
