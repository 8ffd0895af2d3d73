"""Examples by the modality that decides them, with thumbnails as data URIs.

A modality decides an example if it alone leads the teacher to its multimodal decision and the other
one alone does not.
"""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msd_deploy.data.images import decode_image
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.readers.spec import path_of_spec
from msd_deploy.distillation.saliency import Saliency, teacher_saliency
from msd_deploy.metrics import LogitArray, LogitsByView, decisions, probabilities
from msd_deploy.problem import Problem
from msd_deploy.report.predictions import Decisions, RunOutputs
from msd_deploy.report.schema import KINDS, DecisionJson, ExampleJson, ExamplesJson, Kind
from msd_deploy.views import View

OF_EACH_KIND = 4
_TEMPERATURE = 1.0  # saliency of the probabilities themselves

Rows = NDArray[np.bool_]
Strength = NDArray[np.float64]


def choose_examples(outputs: RunOutputs) -> ExamplesJson:
    """Count the examples of each kind, and choose the clearest ones by saliency.

    No two of a kind share an image. The choice depends on the data and the teacher only.
    """
    rows, problem = outputs.rows, outputs.data.info.problem
    teacher = outputs.predictions.by_view(outputs.split)
    # [CLS] alone is an absent text.
    has_both = (rows.image_index >= 0) & (rows.attention_mask.sum(axis=1) > 1)
    kinds = kinds_of(teacher, problem, np.asarray(has_both))
    saliency = teacher_saliency(
        outputs.predictions, outputs.split, problem=problem, temperature=_TEMPERATURE
    )
    strengths = _strengths(saliency)
    shown = [
        _example(outputs, kind, row, saliency)
        for kind in KINDS
        for row in strongest(kinds[kind], strengths[kind], rows.image_index, most=OF_EACH_KIND)
    ]
    counts = {kind: int(mask.sum()) for kind, mask in kinds.items()}
    return {"counts": counts, "shown": shown}


def kinds_of(teacher: LogitsByView, problem: Problem, candidates: Rows) -> dict[str, Rows]:
    """Return the rows of each kind, bool [rows].

    Kinds are image, text, both (neither alone leads to the multimodal decision) and either (each
    does).

    Args:
        teacher: The teacher's logits [rows, classes] by view.
        problem: Kind of the task.
        candidates: Rows that have both modalities; other rows have no kind.
    """
    by_image = _equal_decisions(teacher[View.IMAGE], teacher[View.MULTIMODAL], problem)
    by_text = _equal_decisions(teacher[View.TEXT], teacher[View.MULTIMODAL], problem)
    return {
        "image": candidates & by_image & ~by_text,
        "text": candidates & by_text & ~by_image,
        "both": candidates & ~by_image & ~by_text,
        "either": candidates & by_image & by_text,
    }


def _equal_decisions(first: LogitArray, second: LogitArray, problem: Problem) -> Rows:
    equal = decisions(first, problem) == decisions(second, problem)
    return np.asarray(equal if equal.ndim == 1 else equal.all(axis=1))


def _strengths(saliency: Saliency) -> dict[Kind, Strength]:
    """Return how clearly each row is of a kind, [rows], in nats."""
    image, text = (values.numpy().astype(np.float64) for values in (saliency.image, saliency.text))
    return {"image": image - text, "text": text - image, "both": np.minimum(image, text)}


def strongest(
    candidates: Rows, strength: Strength, image_index: NDArray[np.int64], *, most: int
) -> list[int]:
    """Return the rows of the highest strength, each with another image; ties by position."""
    order = np.lexsort((np.arange(len(candidates)), -strength))
    chosen: list[int] = []
    for row in order[candidates[order]].tolist():
        if len(chosen) == most:
            break
        if image_index[row] not in image_index[chosen]:
            chosen.append(row)
    return chosen


def _example(outputs: RunOutputs, kind: Kind, row: int, saliency: Saliency) -> ExampleJson:
    rows, data = outputs.rows, outputs.data
    source = outputs.source.dataset[outputs.split][int(rows.source_rows[row])]
    return {
        "kind": kind,
        "row": row,
        "origin": _short_origin(str(source["origin"]), outputs),
        "text": str(source["text"]),
        "truth": _true_labels(rows, row, data.info.labels),
        "image_saliency": round(float(saliency.image[row]), 4),
        "text_saliency": round(float(saliency.text[row]), 4),
        "teacher": _decisions_of(outputs.teacher_scaled, outputs.teacher_decisions, row, outputs),
        "students": [
            _decisions_of(student.scaled, student.decisions, row, outputs)
            for student in outputs.students
        ],
    }


def _short_origin(origin: str, outputs: RunOutputs) -> str:
    """Return the origin of a row, of a file without its folder, which may be private."""
    is_file = path_of_spec(outputs.students[0].config.data.spec) is not None
    return PurePath(origin).name if is_file else origin


def _true_labels(rows: PreparedSplit, row: int, labels: Sequence[str]) -> list[str]:
    if rows.labels.ndim == 1:
        return [labels[int(rows.labels[row])]]
    return [label for label, is_true in zip(labels, rows.labels[row], strict=True) if is_true > 0]


def _decisions_of(
    scaled: Mapping[View, LogitArray], decided: Decisions, row: int, outputs: RunOutputs
) -> dict[str, DecisionJson]:
    labels, problem = outputs.data.info.labels, outputs.data.info.problem
    return {
        view.value: decision_of(scaled[view][row], decided.classes[view][row], labels, problem)
        for view in View
    }


def decision_of(
    scaled: LogitArray, decided: NDArray[np.bool_], labels: Sequence[str], problem: Problem
) -> DecisionJson:
    """Return the decision of one example with its probability; see `DecisionJson`.

    Args:
        scaled: Logits over their temperature, [classes].
        decided: The decided classes, [classes].
        labels: Names of the classes.
        problem: Kind of the task.
    """
    each = probabilities(scaled[None], problem)[0]
    chosen = np.flatnonzero(decided).tolist()
    named = chosen or [int(each.argmax())]
    return {
        "labels": [labels[index] for index in chosen],
        "probability": [round(float(each[index]), 4) for index in named],
    }


SIDE = 192
"""Maximum side in pixels, twice the displayed size for high-resolution screens."""
_QUALITY = 82


def thumbnails_of(outputs: RunOutputs, examples: ExamplesJson) -> dict[int, str]:
    """Return a thumbnail of each shown example as a data URI, by its row.

    Thumbnails are of the original images, which have more detail than a model's input.
    """
    rows = outputs.source.dataset[outputs.split]
    with warnings.catch_warnings(action="ignore"):  # of odd metadata
        return {
            example["row"]: thumbnail(_image(rows, int(outputs.rows.source_rows[example["row"]])))
            for example in examples["shown"]
        }


def _image(rows: datasets.Dataset, row: int) -> Image.Image:
    source: Mapping[str, object] = rows[row]
    content, path = source["image_bytes"], source["image_path"]
    return decode_image(content if isinstance(content, bytes) else Path(str(path)))


def thumbnail(image: Image.Image) -> str:
    """Encode an RGB image, reduced to SIDE pixels, as a JPEG in a data URI."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    # From an array: a photograph's metadata, such as its location, must not be in a report.
    Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
