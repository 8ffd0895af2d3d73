"""What every pass over an ONNX file shares: quiet libraries, kept metadata."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx


@contextlib.contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Silence the quantizers' prints and their advice, which goes through the root logger.

    One of them also configures that logger when it is imported: its handlers are as before
    afterwards.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


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
