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
    resampled_means,
    with_interval,
)
from msd_deploy.operating_point import Expected, OperatingPoint
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import Problem
from msd_deploy.temperatures import Modalities
from msd_deploy.views import View

_Values = NDArray[np.float64]


class ClassDecisions(TypedDict):
    """Precision and recall of one class; None where it is never decided, or never true."""

    precision: Interval | None
    recall: Interval | None


class DecisionsJson(Expected):
    """What an operating point gives on a split; by_class is empty where one class is decided."""

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
    """Measure the decisions of each view.

    Args:
        scaled: Logits over their temperatures, per view [rows, classes].
        labels: See `score_logits`; every row has one.
        problem: Kind of the task.
        point: The operating point.
        rows: The examples.
        classes: Names of the classes.
    """
    return {
        view.value: _measure(values, labels, problem, view, point, rows, classes)
        for view, values in scaled.items()
    }


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
            precision, recall = _two_ratios(sums[at], resampled[:, at])
            of_classes[name] = {"precision": precision, "recall": recall}
    precision, recall = _two_ratios(sums[:3], resampled[:, :3])
    return {
        "precision": precision,
        "recall": recall,
        "abstained": with_interval(float(sums[3]), resampled[:, 3]),
        "by_class": of_classes,
    }


def _two_ratios(sums: _Values, resampled: _Values) -> tuple[Interval | None, Interval | None]:
    """Return right / decided and right / true of sums [decided, right, true]."""
    found: list[Interval | None] = []
    for place in (0, 2):
        if sums[place] == 0:
            found.append(None)
            continue
        drawn = resampled[resampled[:, place] > 0]
        found.append(with_interval(float(sums[1] / sums[place]), drawn[:, 1] / drawn[:, place]))
    return found[0], found[1]
