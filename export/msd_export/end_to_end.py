"""One ONNX file from encoded picture and text to labels: preprocessing inside, by a library.

onnxruntime-extensions brings the operators DecodeImage and BertTokenizer; whoever runs the file
registers its library. An app that ships it needs no image or tokenizer code of its own.
"""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.errors import ExportError, RuntimeUnavailableError
from msd_deploy.problem import decides_one_class
from msd_export.end_to_end_image import IMAGE_INPUT, add_image
from msd_export.end_to_end_text import TEXT_INPUT, add_text, tokenizer_attributes
from msd_export.graph_builder import CONTRIB_DOMAIN, EXTENSIONS_DOMAIN, GraphBuilder
from msd_export.signature import ModelSignature

END_TO_END_NAME = "end_to_end.onnx"
_DECIDED = 0.5


def require_end_to_end(preprocessor: Preprocessor) -> None:
    """Check, before any work, that an end-to-end file can be written and verified.

    Raises:
        RuntimeUnavailableError: onnxruntime-extensions is not installed.
        ExportError: The tokenizer is of a kind that it does not have.
    """
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        raise RuntimeUnavailableError(
            "an end-to-end file needs onnxruntime-extensions, not installed here",
            where="--end-to-end",
            fix='Run pip install "msd-deploy[extensions]"',
        )
    tokenizer_attributes(preprocessor)


def write_end_to_end(
    model_path: Path, preprocessor: Preprocessor, signature: ModelSignature, path: Path
) -> None:
    """Write an ONNX file with a model's preprocessing before it and its decision behind it.

    Inputs: image_bytes uint8 [bytes], a JPEG or PNG, empty for no picture; text string [1], empty
    for no text. Outputs: labels string [decided], logits and probabilities float32 [1, classes].

    Args:
        model_path: The ONNX file of the model.
        preprocessor: Makes its inputs.
        signature: Its labels and what they mean.
        path: The file to write.

    Raises:
        ExportError: The tokenizer is of a kind that there is no operator for, or ONNX refuses the
            result.
    """
    model = onnx.load(model_path)
    before, behind = GraphBuilder("pre"), GraphBuilder("post")
    add_image(before, preprocessor.image)
    add_text(before, preprocessor)
    _add_labels(behind, signature)
    graph = helper.make_graph(
        [*before.nodes, *model.graph.node, *behind.nodes],
        "end_to_end",
        [
            helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.UINT8, ["bytes"]),
            helper.make_tensor_value_info(TEXT_INPUT, TensorProto.STRING, [1]),
        ],
        [
            helper.make_tensor_value_info("labels", TensorProto.STRING, ["decided"]),
            *(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, len(signature.labels)])
                for name in ("logits", "probabilities")
            ),
        ],
        [*before.initializers, *model.graph.initializer, *behind.initializers],
    )
    _save(graph, model, path)


def _save(graph: onnx.GraphProto, model: onnx.ModelProto, path: Path) -> None:
    domains = (EXTENSIONS_DOMAIN, CONTRIB_DOMAIN)
    opsets = [*model.opset_import, *(helper.make_opsetid(domain, 1) for domain in domains)]
    whole = helper.make_model(
        graph, opset_imports=opsets, ir_version=model.ir_version, functions=list(model.functions)
    )
    whole.producer_name, whole.doc_string = model.producer_name, model.doc_string
    whole.metadata_props.extend(model.metadata_props)
    try:
        onnx.checker.check_model(whole)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"ONNX refuses the end-to-end graph ({error})") from error
    onnx.save(whole, path)


def _add_labels(graph: GraphBuilder, signature: ModelSignature) -> None:
    """Decide as labels.json says: the likeliest class, or every one from a probability of 0.5."""
    names = graph.strings(signature.labels)
    if decides_one_class(signature.problem):
        best = graph.node("ArgMax", "logits", axis=1, keepdims=0)
        graph.named(graph.node("Gather", names, best), "labels")
        return
    likely = graph.node("GreaterOrEqual", "probabilities", graph.constant(_DECIDED, np.float32))
    flat = graph.node("Reshape", likely, graph.constant([-1]))
    graph.named(graph.node("Compress", names, flat, axis=0), "labels")
