"""Quality of decisions at an operating point: precision, recall and abstentions, with intervals.

Torch-free. `operating_point.Expected` defines the three; here they are measured.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from msd_deploy.confidence import outcomes_of
from msd_deploy.metrics import (
    LabelArray,
    LogitArray,
    bound_of_certainty,
    resampled_means,
    with_interval,
)
from msd_deploy.operating_point import Expected, OperatingPoint
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import Problem
from msd_deploy.temperatures import Modalities, modalities_of
from msd_deploy.views import View

_Values = NDArray[np.float64]


class ClassDecisions(TypedDict):
    """Precision and recall of one class; None where it is never decided, or never true."""

    precision: Interval | None
    recall: Interval | None


class DecisionsJson(Expected):
    """What an operating point gives on the examples of a split that have a view's modalities.

    by_class is empty where one class is decided.
    """

    examples: int
    by_class: dict[str, ClassDecisions]


def decisions_of_views(
    scaled: Mapping[View, LogitArray],
    labels: LabelArray,
    problem: Problem,
    *,
    point: OperatingPoint,
    rows: Modalities,
    classes: Sequence[str],
) -> dict[str, DecisionsJson]:
    """Measure the decisions of each view, on the examples that have its modalities.

    A view that no example has is left out.

    Args:
        scaled: Logits over their temperatures, per view [rows, classes].
        labels: See `score_logits`; every row has one.
        problem: Kind of the task.
        point: The operating point.
        rows: The examples.
        classes: Names of the classes.
    """
    has_image, has_text = rows.has_image(), rows.has_text()
    measured = {}
    for view, values in scaled.items():
        used = (has_image | (not view.has_image)) & (has_text | (not view.has_text))
        if used.any():
            of_view = modalities_of(rows, used)
            measured[view.value] = _measure(
                values[used], labels[used], problem, view, point, of_view, classes
            )
    return measured


def expected_of_views(
    scaled: Mapping[View, LogitArray],
    labels: LabelArray,
    problem: Problem,
    *,
    point: OperatingPoint,
    rows: Modalities,
) -> dict[View, Expected]:
    """Measure the decisions of each view without those of single classes."""
    measured = decisions_of_views(scaled, labels, problem, point=point, rows=rows, classes=())
    return {
        View(name): {
            "precision": values["precision"],
            "recall": values["recall"],
            "abstained": values["abstained"],
        }
        for name, values in measured.items()
    }


def _measure(
    logits: LogitArray,
    labels: LabelArray,
    problem: Problem,
    view: View,
    point: OperatingPoint,
    rows: Modalities,
    classes: Sequence[str],
) -> DecisionsJson:
    decided = point.decides(logits, view, rows, problem)
    right = decided * outcomes_of(logits, labels, problem)
    true = labels if problem == "multi_label" else np.ones_like(right)
    # Of each row: decided, rightly decided and true, summed over the classes, then by class.
    by_class = np.stack([decided, right, true]).astype(np.float64)
    columns = [by_class.sum(axis=2).T, 1.0 - decided.any(axis=1, keepdims=True)]
    if classes and problem == "multi_label":
        columns.append(by_class.transpose(1, 0, 2).reshape(len(logits), -1))
    values = np.concatenate(columns, axis=1)
    sums, resampled = values.mean(axis=0), resampled_means(values)
    of_classes: dict[str, ClassDecisions] = {}
    if len(columns) == 3:
        for place, name in enumerate(classes):
            at = 4 + place + len(classes) * np.arange(3)
            precision, recall = _two_ratios(values[:, at], sums[at], resampled[:, at])
            of_classes[name] = {"precision": precision, "recall": recall}
    precision, recall = _two_ratios(values[:, :3], sums[:3], resampled[:, :3])
    return {
        "precision": precision,
        "recall": recall,
        "abstained": _bounded(float(sums[3]), resampled[:, 3], len(values)),
        "examples": len(values),
        "by_class": of_classes,
    }


def _two_ratios(
    values: _Values, sums: _Values, resampled: _Values
) -> tuple[Interval | None, Interval | None]:
    """Return right / decided and right / true of columns [decided, right, true].

    Args:
        values: Of each example, [examples, 3].
        sums: Their means, [3].
        resampled: Those of each resample, [resamples, 3].
    """
    found: list[Interval | None] = []
    for place in (0, 2):
        if sums[place] == 0:
            found.append(None)
            continue
        drawn = resampled[resampled[:, place] > 0]
        counted = int((values[:, place] > 0).sum())
        ratio = float(sums[1] / sums[place])
        found.append(_bounded(ratio, drawn[:, 1] / drawn[:, place], counted))
    return found[0], found[1]


def _bounded(value: float, resampled: _Values, examples: int) -> Interval:
    """Return a share with its interval, the exact one where all examples or none are right."""
    measured = with_interval(value, resampled)
    bound = bound_of_certainty(examples)
    if value == 1:
        measured["interval"] = [round(bound, 6), 1.0]
    elif value == 0:
        measured["interval"] = [0.0, round(1 - bound, 6)]
    return measured
