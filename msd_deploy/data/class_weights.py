"""How much a class counts in the labels' loss, so that rare ones are not drowned by common ones.

With n labelled training rows of which n_c have class c:

    single label   w_c = n / (classes * n_c), scikit-learn's "balanced" (King & Zeng 2001); classes
                   that have a row are counted, so the mean of w over the labelled rows is 1
    multi-label    w_c = (n - n_c) / n_c, the weight of a class where it is true (the pos_weight of
                   torch's binary cross-entropy): both answers weigh the same in sum

No weight is above MOST_WEIGHT: one mislabelled row of a class of few must not decide a step. A
single-label problem's weights are scaled to a mean of 1 again after that. A class without a row has
weight 1. Nothing is known here of validation and test, nor of labels that were hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from msd_deploy.config import ClassWeighting
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.errors import ConfigError

MOST_WEIGHT = 100.0
_TOLD_CLASSES = 10


@dataclass(frozen=True, slots=True)
class _Counted:
    """The labelled training rows: how many there are, and of each class, int64 [classes]."""

    rows: int
    of_class: NDArray[np.int64]


def weigh_classes(data: PreparedData, weighting: ClassWeighting) -> PreparedData:
    """Return a data set that states the weights of its classes, and says so.

    Args:
        data: Its labelled training rows are counted, hidden labels not.
        weighting: none returns the data as it is.

    Raises:
        ConfigError: The labels are soft: their classes are not weighed.
    """
    if weighting == "none":
        return data
    if data.problem == "soft_label":
        raise ConfigError(
            "answers with soft scores have no classes of their own size to balance",
            where="data.class_weights",
            fix="Leave it out, or use none",
        )
    counted = _count(data.splits["train"], len(data.labels))
    weights = _balanced(counted, is_single=data.problem == "single_label")
    further = data.further_metrics
    if data.problem == "single_label" and "balanced_accuracy" not in further:
        further = (*further, "balanced_accuracy")
    return replace(
        data,
        class_weights=tuple(round(float(weight), 6) for weight in weights),
        notes=(*data.notes, *_notes(weights, counted, data.labels)),
        further_metrics=further,
    )


def class_weights_as_json(data: PreparedData) -> Mapping[str, object]:
    """Return what run.json states of the weights, as class_weights; nothing where there are none.

    by_class has the weights in the order of the classes, by name.
    """
    if data.class_weights is None:
        return {}
    by_class = dict(zip(data.labels, data.class_weights, strict=True))
    stated = {"weighting": "balanced", "most": MOST_WEIGHT, "by_class": by_class}
    return {"class_weights": stated}


def _count(split: PreparedSplit, classes: int) -> _Counted:
    labels = split.labels[split.has_label()]
    if labels.ndim == 1:
        counts = np.bincount(labels.astype(np.int64), minlength=classes)
    else:
        counts = labels.sum(axis=0, dtype=np.float64).round().astype(np.int64)
    return _Counted(len(labels), counts)


def _balanced(counted: _Counted, *, is_single: bool) -> NDArray[np.float64]:
    rows, counts = counted.rows, counted.of_class
    has_row = counts > 0
    at_least_one = np.maximum(counts, 1)
    weights = rows / (has_row.sum() * at_least_one) if is_single else (rows - counts) / at_least_one
    # A class that every row has: 0 would say that it may be forgotten.
    weights = np.where(has_row & (weights > 0), np.minimum(weights, MOST_WEIGHT), 1.0)
    if is_single:
        weights[has_row] /= (weights * counts).sum() / rows
    return np.asarray(weights, np.float64)


def _notes(
    weights: NDArray[np.float64], counted: _Counted, labels: tuple[str, ...]
) -> tuple[str, ...]:
    rarest_first = np.argsort(counted.of_class, kind="stable")
    with_rows = [index for index in rarest_first if counted.of_class[index] > 0]
    without = [labels[index] for index in rarest_first if counted.of_class[index] == 0]
    told = ", ".join(
        f"{labels[index]} {weights[index]:.3g} ({counted.of_class[index]:,})"
        for index in with_rows[:_TOLD_CLASSES]
    )
    more = ", ..." if len(with_rows) > _TOLD_CLASSES else ""
    notes = [f"class weights of the labels' loss (labelled training rows): {told}{more}"]
    if without:
        named = ", ".join(without[:_TOLD_CLASSES])
        more = ", ..." if len(without) > _TOLD_CLASSES else ""
        notes.append(f"classes without a labelled training row have weight 1: {named}{more}")
    return tuple(notes)
