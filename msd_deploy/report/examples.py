"""Examples where the image decides, where the text does, and where only both together do.

By the teacher's views: a modality decides where it alone leads the teacher to the answer that it
gives to the pair, and the other one alone does not.

Small pictures that stand in a page itself, as data URIs.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from msd_deploy.data.images import decode_image
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.data.readers.spec import path_of_spec
from msd_deploy.distill.saliency import Saliency, teacher_saliency
from msd_deploy.metrics import LogitArray, LogitsByView, decisions, probabilities
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.report.predictions import RunOutputs
from msd_deploy.report.schema import KINDS, DecisionJson, ExampleJson, ExamplesJson, Kind
from msd_deploy.views import View

OF_EACH_KIND = 4
_TEMPERATURE = 1.0  # how far the teacher's own probabilities move

Rows = NDArray[np.bool_]
Strength = NDArray[np.float64]


def choose_examples(answers: RunOutputs) -> ExamplesJson:
    """Count the kinds of examples, and choose some of each: those where it shows most.

    No two of a kind share a picture. The choice depends on the data and the teacher alone.
    """
    rows, problem = answers.rows, answers.data.info.problem
    teacher = answers.predictions.by_view(answers.split)
    kinds = kinds_of(teacher, problem, has_both(rows))
    saliency = teacher_saliency(
        answers.predictions, answers.split, problem=problem, temperature=_TEMPERATURE
    )
    strengths = _strengths(saliency)
    shown = [
        _example(answers, kind, row, saliency)
        for kind in KINDS
        for row in strongest(kinds[kind], strengths[kind], rows.image_index, most=OF_EACH_KIND)
    ]
    counts = {kind: int(found.sum()) for kind, found in kinds.items()}
    return {"counts": counts, "shown": shown}


def has_both(rows: PreparedSplit) -> Rows:
    """Return which rows have a picture and a text, bool [rows]; [CLS] alone is no text."""
    return np.asarray((rows.image_index >= 0) & (rows.attention_mask.sum(axis=1) > 1))


def kinds_of(teacher: LogitsByView, problem: Problem, candidates: Rows) -> dict[str, Rows]:
    """Return which rows are of which kind, bool [rows] each.

    Kinds are image, text, both (neither alone gives the pair's answer) and either (each does).

    Args:
        teacher: The teacher's logits [rows, classes] by view.
        problem: Decides what a decision is.
        candidates: Rows that have both modalities; others are of no kind.
    """
    by_image = _decides_alike(teacher[View.IMAGE], teacher[View.MULTIMODAL], problem)
    by_text = _decides_alike(teacher[View.TEXT], teacher[View.MULTIMODAL], problem)
    return {
        "image": candidates & by_image & ~by_text,
        "text": candidates & by_text & ~by_image,
        "both": candidates & ~by_image & ~by_text,
        "either": candidates & by_image & by_text,
    }


def _decides_alike(first: LogitArray, second: LogitArray, problem: Problem) -> Rows:
    equal = decisions(first, problem) == decisions(second, problem)
    return np.asarray(equal if equal.ndim == 1 else equal.all(axis=1))


def _strengths(saliency: Saliency) -> dict[Kind, Strength]:
    """Return how much each row shows what its kind is about, [rows], in nats."""
    image, text = (values.numpy().astype(np.float64) for values in (saliency.image, saliency.text))
    return {"image": image - text, "text": text - image, "both": np.minimum(image, text)}


def strongest(
    found: Rows, strength: Strength, pictures: NDArray[np.int64], *, most: int
) -> list[int]:
    """Return the positions of the strongest rows, each of another picture; ties by position."""
    order = np.lexsort((np.arange(len(found)), -strength))
    chosen: list[int] = []
    for row in order[found[order]].tolist():
        if len(chosen) == most:
            break
        if pictures[row] not in pictures[chosen]:
            chosen.append(row)
    return chosen


def _example(answers: RunOutputs, kind: Kind, row: int, saliency: Saliency) -> ExampleJson:
    rows, data = answers.rows, answers.data
    source = answers.source.dataset[answers.split][int(rows.source_rows[row])]
    return {
        "kind": kind,
        "row": row,
        "origin": _short_origin(str(source["origin"]), answers),
        "text": str(source["text"]),
        "truth": _true_labels(rows, row, data.info.labels),
        "image_saliency": round(float(saliency.image[row]), 4),
        "text_saliency": round(float(saliency.text[row]), 4),
        "teacher": _answers_of(answers.predictions.by_view(answers.split), row, answers),
        "students": [_answers_of(student.logits, row, answers) for student in answers.students],
    }


def _short_origin(origin: str, answers: RunOutputs) -> str:
    """Return where a row stands: of a file without its folder, which is nobody else's business."""
    is_file = path_of_spec(answers.students[0].config.data.spec) is not None
    return PurePath(origin).name if is_file else origin


def _true_labels(rows: PreparedSplit, row: int, labels: Sequence[str]) -> list[str]:
    if rows.labels.ndim == 1:
        return [labels[int(rows.labels[row])]]
    return [label for label, is_true in zip(labels, rows.labels[row], strict=True) if is_true > 0]


def _answers_of(
    logits: Mapping[View, LogitArray], row: int, answers: RunOutputs
) -> dict[str, DecisionJson]:
    labels, problem = answers.data.info.labels, answers.data.info.problem
    return {view.value: answer_of(logits[view][row], labels, problem) for view in View}


def answer_of(logits: LogitArray, labels: Sequence[str], problem: Problem) -> DecisionJson:
    """Return what logits [classes] decide, with its probability; see `DecisionJson`."""
    found = probabilities(logits[None], problem)[0]
    if decides_one_class(problem):
        chosen = [int(logits.argmax())]
    else:
        chosen = np.flatnonzero(decisions(logits[None], problem)[0]).tolist()
    named = chosen or [int(found.argmax())]
    return {
        "labels": [labels[index] for index in chosen],
        "probability": [round(float(found[index]), 4) for index in named],
    }


SIDE = 192
"""Longest side in pixels: sharp at half of it on a fine screen."""
_QUALITY = 82


def thumbnails_of(answers: RunOutputs, examples: ExamplesJson) -> dict[int, str]:
    """Return a data URI for each example that is shown, by its row.

    The original picture is reduced; a user sees more in it than in a model's few pixels.
    """
    rows = answers.source.dataset[answers.split]
    return {
        example["row"]: thumbnail(_picture(rows, int(answers.rows.source_rows[example["row"]])))
        for example in examples["shown"]
    }


def _picture(rows: datasets.Dataset, row: int) -> Image.Image:
    source: Mapping[str, object] = rows[row]
    content, path = source["image_bytes"], source["image_path"]
    return decode_image(content if isinstance(content, bytes) else Path(str(path)))


def thumbnail(picture: Image.Image) -> str:
    """Return an RGB picture, at most SIDE pixels high and wide, as a JPEG in a data URI."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    # Pixels alone: a photograph's own comments, place and time do not go into a report.
    Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
