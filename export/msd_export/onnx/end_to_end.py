"""end_to_end.onnx: one file from an encoded image and a text to labels; written and verified here.

onnxruntime-extensions provides the operators DecodeImage and BertTokenizer; its library must be
registered to run the file. An app that ships it needs no image or tokenizer code of its own. The
file is verified against the plain model on the bytes and texts of the test split. The nodes of the
preprocessing are in `onnx/preprocessing.py`.
"""

import importlib.util
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from msd_deploy.artifacts.manifest import Json
from msd_deploy.data.images import open_encoded
from msd_deploy.data.metadata import UPRIGHT, orientation_of
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.preprocess import Preprocessor
from msd_deploy.data.source import SourceData
from msd_deploy.errors import ExportError, RuntimeUnavailableError
from msd_deploy.metrics import LogitsByView
from msd_deploy.models.classifier import ViewClassifier
from msd_deploy.models.folders import LoadedModel
from msd_deploy.problem import decides_one_class
from msd_deploy.views import View
from msd_export.onnx.export import save_onnx
from msd_export.onnx.predictor import open_session
from msd_export.onnx.preprocessing import (
    CONTRIB_DOMAIN,
    EXTENSIONS_DOMAIN,
    IMAGE_INPUT,
    TEXT_INPUT,
    GraphBuilder,
    add_image,
    add_text,
    tokenizer_attributes,
)
from msd_export.parity import ViewParity, compare_logits
from msd_export.signature import (
    OUTPUT_NAMES,
    Logits,
    ModelSignature,
    refuse_other_probabilities,
)
from msd_export.tolerance import END_TO_END, check_view

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
            "an end-to-end file requires onnxruntime-extensions, which is not installed",
            where="--end-to-end",
            fix='Run pip install "msd-deploy[extensions]"',
        )
    tokenizer_attributes(preprocessor)


def write_end_to_end(
    model_path: Path, preprocessor: Preprocessor, signature: ModelSignature, path: Path
) -> None:
    """Write an ONNX file with a model's preprocessing before it and its decision behind it.

    Inputs: image_bytes uint8 [bytes], a JPEG or PNG, empty for no image; text string [1], empty
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
    whole = helper.make_model(graph, opset_imports=opsets, functions=list(model.functions))
    whole.producer_name, whole.doc_string = model.producer_name, model.doc_string
    whole.metadata_props.extend(model.metadata_props)
    try:
        save_onnx(whole, path)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the end-to-end graph is not valid ONNX ({error})") from error


def _add_labels(graph: GraphBuilder, signature: ModelSignature) -> None:
    """Return the likeliest class, or every class from a probability of 0.5 (labels.json)."""
    names = graph.strings(signature.labels)
    if decides_one_class(signature.problem):
        best = graph.node("ArgMax", "logits", axis=1, keepdims=0)
        graph.named(graph.node("Gather", names, best), "labels")
        return
    likely = graph.node("GreaterOrEqual", "probabilities", graph.constant(_DECIDED, np.float32))
    flat = graph.node("Reshape", likely, graph.constant([-1]))
    graph.named(graph.node("Compress", names, flat, axis=0), "labels")


_READ_FORMATS = ("JPEG", "PNG")


class EndToEndPredictor:
    """An end-to-end file in ONNX Runtime with onnxruntime-extensions.

    Args:
        path: The file.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime
        from onnxruntime_extensions import get_library_path

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.register_custom_ops_library(get_library_path())
        self._session = open_session(path, options)

    def predict(self, image: bytes, text: str) -> tuple[list[str], Logits, Logits]:
        """Return labels, logits and probabilities of one example; b"" and "" are none.

        Both are float32 [classes].

        Raises:
            ExportError: The image is in a format that it does not decode.
        """
        feed = {IMAGE_INPUT: np.frombuffer(image, np.uint8), TEXT_INPUT: np.array([text], object)}
        try:
            labels, logits, found = self._session.run(["labels", *OUTPUT_NAMES], feed)
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise ExportError(f"the end-to-end file failed ({error})") from error
        return labels.tolist(), cast(Logits, logits[0]), cast(Logits, found[0])


@dataclass(frozen=True, slots=True)
class _Example:
    """A test example as it was given."""

    image: bytes
    text: str
    is_read: bool
    is_turned: bool
    is_transparent: bool


def check_end_to_end(
    path: Path,
    plain: LogitsByView,
    split: PreparedSplit,
    source: SourceData,
    loaded: LoadedModel[ViewClassifier],
) -> Json:
    """Compare an end-to-end file with the plain model, on the bytes and texts of test examples.

    Args:
        path: The file.
        plain: The plain variant's logits of the same examples.
        split: Which examples.
        source: The bytes of their images, and their texts; test examples that DecodeImage does not
            read (neither JPEG nor PNG, CMYK) are left out and counted.
        loaded: The model that was exported.

    Returns:
        The part of parity.json.

    Raises:
        ParityError: Its decisions differ more often than END_TO_END allows, or its probabilities
            are not those of its logits over the model's temperatures.
    """
    examples = list(_examples(split, source))
    read = np.array([example.is_read for example in examples])
    if not read.any():
        raise ExportError(
            "no test image is a JPEG or PNG, the formats that the end-to-end file reads",
            fix="Export without --end-to-end",
        )
    rows = np.flatnonzero(read)
    predictor = EndToEndPredictor(path)
    used = _rows_of(split, rows)
    logits: LogitsByView = {}
    for view in View:
        answers = [_predict(predictor, examples[row], view) for row in rows]
        logits[view], found = map(np.stack, zip(*answers, strict=True))
        metadata = {
            "problem": loaded.problem,
            "temperatures": loaded.temperatures.as_text(),
        }
        inputs = used.inputs(slice(None), view)
        refuse_other_probabilities((logits[view], found), inputs, metadata, path)
    expected = {view: logits[rows] for view, logits in plain.items()}
    parity = compare_logits(
        logits,
        expected,
        used,
        loaded.problem,
        temperatures=loaded.temperatures,
        point=loaded.operating_point,
    )
    kept = [examples[row] for row in rows]
    counts = {
        "left_out": int((~read).sum()),
        "turned_by_exif": sum(example.is_turned for example in kept),
        "transparent": sum(example.is_transparent for example in kept),
    }
    _check(parity, counts)
    return {
        "file": END_TO_END_NAME,
        "examples": len(rows),
        **counts,
        "min_agreement": END_TO_END.min_agreement,
        "views": {view.value: _as_json(result) for view, result in parity.items()},
    }


def _check(parity: Mapping[View, ViewParity], counts: Mapping[str, int]) -> None:
    kinds = f"{counts['turned_by_exif']} rotated by EXIF, {counts['transparent']} transparent"
    where = f"{END_TO_END_NAME} (test images: {kinds})"
    for view, result in parity.items():
        check_view(view, result, END_TO_END, where)


def _as_json(result: ViewParity) -> Json:
    names = ("max_abs_error", "mean_abs_error", "agreement", "sure_agreement")
    values = result.as_json()
    return {name: values[name] for name in names}


def _predict(predictor: EndToEndPredictor, example: _Example, view: View) -> tuple[Logits, Logits]:
    image = example.image if view.has_image else b""
    _, logits, found = predictor.predict(image, example.text if view.has_text else "")
    return logits, found


def _rows_of(split: PreparedSplit, rows: NDArray[np.int64]) -> PreparedSplit:
    return replace(
        split,
        image_index=split.image_index[rows],
        input_ids=split.input_ids[rows],
        attention_mask=split.attention_mask[rows],
        labels=split.labels[rows],
        source_rows=split.source_rows[rows],
    )


def _examples(split: PreparedSplit, source: SourceData) -> Iterator[_Example]:
    rows = source.dataset["test"]
    for index in split.source_rows.tolist():
        row: Mapping[str, Any] = rows[index]
        encoded = row["image_bytes"] or b""
        if row["image_path"]:
            encoded = Path(row["image_path"]).read_bytes()
        yield _example(encoded, row["text"] or "")


def _example(encoded: bytes, text: str) -> _Example:
    if not encoded:
        return _Example(b"", text, is_read=True, is_turned=False, is_transparent=False)
    try:
        image = open_encoded(io.BytesIO(encoded))
    # The row was decoded without the metadata that Pillow refuses; other decoders may refuse it.
    except Exception:
        return _Example(encoded, text, is_read=False, is_turned=False, is_transparent=False)
    return _Example(
        encoded,
        text,
        is_read=image.format in _READ_FORMATS and image.mode != "CMYK",
        is_turned=orientation_of(image) != UPRIGHT,
        is_transparent=image.has_transparency_data,
    )
