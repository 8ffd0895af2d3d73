"""Verify an end-to-end file: the test split's own bytes and texts, against the plain model."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msd_deploy.artifacts import Json
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.source_types import SourceData
from msd_deploy.errors import ExportError
from msd_deploy.evaluation import LogitsByView
from msd_deploy.problem import Problem
from msd_deploy.views import View
from msd_export.end_to_end import END_TO_END_NAME
from msd_export.end_to_end_image import IMAGE_INPUT
from msd_export.end_to_end_text import TEXT_INPUT
from msd_export.gate import END_TO_END, check_view
from msd_export.parity import ViewParity, compare_logits
from msd_export.predictors import open_session
from msd_export.signature import Logits

_ORIENTATION, _UPRIGHT = 0x0112, 1
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

    def predict(self, image: bytes, text: str) -> tuple[list[str], Logits]:
        """Return the labels and the logits, float32 [classes], of one example; b"" and "" are none.

        Raises:
            ExportError: The picture is of no kind that it decodes.
        """
        feed = {IMAGE_INPUT: np.frombuffer(image, np.uint8), TEXT_INPUT: np.array([text], object)}
        try:
            labels, logits = self._session.run(["labels", "logits"], feed)
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise ExportError(f"the end-to-end file failed ({error})") from error
        return labels.tolist(), cast(Logits, logits[0])


@dataclass(frozen=True, slots=True)
class _Example:
    """A test example as it was given."""

    image: bytes
    text: str
    is_read: bool
    is_turned: bool
    is_transparent: bool


def check_end_to_end(
    path: Path, plain: LogitsByView, split: PreparedSplit, source: SourceData, problem: Problem
) -> Json:
    """Compare an end-to-end file with the plain model, on the bytes and texts of test examples.

    Args:
        path: The file.
        plain: The plain form's logits of the same examples.
        split: Which examples.
        source: Has their pictures' bytes and texts; test examples that DecodeImage does not read
            (neither JPEG nor PNG, CMYK) are left out and counted.
        problem: What a decision is.

    Returns:
        The part of parity.json.

    Raises:
        ParityError: It decides otherwise more often than END_TO_END allows.
    """
    examples = list(_examples(split, source))
    read = np.array([example.is_read for example in examples])
    if not read.any():
        raise ExportError("no test picture is a JPEG or PNG, which the end-to-end file reads")
    rows = np.flatnonzero(read)
    predictor = EndToEndPredictor(path)
    answers = {
        view: np.stack([_answer(predictor, examples[row], view) for row in rows]) for view in View
    }
    expected = {view: logits[rows] for view, logits in plain.items()}
    parity = compare_logits(answers, expected, _rows_of(split, rows), problem)
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
    told = f"{counts['turned_by_exif']} turned by EXIF, {counts['transparent']} transparent"
    where = f"{END_TO_END_NAME} (test pictures: {told})"
    for view, result in parity.items():
        check_view(view, result, END_TO_END, where)


def _as_json(result: ViewParity) -> Json:
    names = ("max_abs_error", "mean_abs_error", "agreement", "sure_agreement")
    stated = result.as_json()
    return {name: stated[name] for name in names}


def _answer(predictor: EndToEndPredictor, example: _Example, view: View) -> Logits:
    image = example.image if view.has_image else b""
    return predictor.predict(image, example.text if view.has_text else "")[1]


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
    with Image.open(io.BytesIO(encoded)) as image:
        return _Example(
            encoded,
            text,
            is_read=image.format in _READ_FORMATS and image.mode != "CMYK",
            is_turned=image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT,
            is_transparent=image.has_transparency_data,
        )
