"""Metrics beside the one that decides: a published set's paper's, or the rare classes'; pure numpy.

`evaluation` has the metric by which decisions are judged everywhere: training, export, bench. These
are for the comparison with the literature, and balanced accuracy for classes of unlike size.
Definitions are scikit-learn's with default settings.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts import Json
from msd_deploy.data.prepared import PreparedData
from msd_deploy.evaluation import (
    LabelArray,
    LogitArray,
    Score,
    bootstrap_rows,
    decisions,
    percentile_interval,
    score_views,
)
from msd_deploy.problem import FurtherMetric
from msd_deploy.views import View

_Weights = NDArray[np.float64]
_Measure = Callable[[_Weights], NDArray[np.float64]]
_RESAMPLES_AT_ONCE = 50


def score_further(
    logits: Mapping[View, LogitArray], labels: LabelArray, metrics: tuple[FurtherMetric, ...]
) -> dict[FurtherMetric, dict[View, Score]]:
    """Score each view by each metric, with the intervals of `evaluation.score_logits`.

    Args:
        logits: Per view [rows, classes].
        labels: See `evaluation.score_logits`; every row has one.
        metrics: auroc needs two classes and one label a row, balanced_accuracy one label a row, the
            F1s several.
    """
    return {
        name: {view: _score(values, labels, name) for view, values in logits.items()}
        for name in metrics
    }


def further_as_json(
    scores: Mapping[FurtherMetric, Mapping[View, Score]],
) -> dict[str, dict[str, Json]]:
    """Return scores as JSON values, by metric and view."""
    return {
        name: {view.value: score.as_json() for view, score in by_view.items()}
        for name, by_view in scores.items()
    }


def state_scores(
    facts: Json, data: PreparedData, split: str, logits: Mapping[View, LogitArray]
) -> None:
    """Add a split's scores to what is stated of a model.

    Args:
        facts: Gets, under the split's name, each view's score, and under "further", split and
            metric those of the data's further metrics, if it has any.
        data: The data.
        split: Which split of it.
        logits: Per view [rows, classes].
    """
    labels = data.splits[split].labels
    scores = score_views(logits, labels, data.problem)
    facts[split] = {view.value: score.as_json() for view, score in scores.items()}
    if further := score_further(logits, labels, data.further_metrics):
        of_splits = facts.setdefault("further", {})
        assert isinstance(of_splits, dict)
        of_splits[split] = further_as_json(further)


def _score(logits: LogitArray, labels: LabelArray, metric: FurtherMetric) -> Score:
    measure: _Measure
    if metric == "auroc":
        measure = _auroc_measure(logits, labels)
    elif metric == "balanced_accuracy":
        measure = _recall_measure(logits, labels)
    else:
        measure = _f1_measure(logits, labels, by_support=metric == "weighted_f1")
    rows = len(labels)
    draws = bootstrap_rows(rows)
    resampled: list[float] = []
    while chunk := list(itertools.islice(draws, _RESAMPLES_AT_ONCE)):
        weights = np.stack([np.bincount(drawn, minlength=rows) for drawn in chunk])
        resampled += measure(weights.astype(np.float64)).tolist()
    low, high = percentile_interval(np.array(resampled))
    return Score(float(measure(np.ones((1, rows)))[0]), low, high, rows)


def _auroc_measure(logits: LogitArray, labels: LabelArray) -> _Measure:
    """Return the area under the ROC curve, as a function of weights [resamples, rows].

    It is P(s+ > s-) + P(s+ = s-) / 2 over pairs of a row of the second class and one of the first
    (Hanley & McNeil 1982), s the difference of their logits; 0.5 where a class has no row.
    """
    scores = logits[:, 1].astype(np.float64) - logits[:, 0]
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    is_positive = np.asarray(labels == 1, np.float64)[order]

    def measure(weights: _Weights) -> NDArray[np.float64]:
        positive = np.add.reduceat(weights[:, order] * is_positive, starts, axis=1)
        negative = np.add.reduceat(weights[:, order] * (1 - is_positive), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        won = (positive * (below + negative / 2)).sum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)

    return measure


def _recall_measure(logits: LogitArray, labels: LabelArray) -> _Measure:
    """Return the mean recall of the classes that have a row, as a function of weights.

    Also called balanced accuracy (Brodersen et al. 2010): 1 / classes for a constant answer.
    """
    is_right = decisions(logits, "single_label") == labels
    truth = np.asarray(labels[:, None] == np.unique(labels), np.float64)
    found = truth * is_right[:, None]

    def measure(weights: _Weights) -> NDArray[np.float64]:
        support = weights @ truth
        recall = (weights @ found) / np.maximum(support, 1)
        return np.asarray(recall.sum(axis=1) / (support > 0).sum(axis=1), np.float64)

    return measure


def _f1_measure(logits: LogitArray, labels: LabelArray, *, by_support: bool) -> _Measure:
    """Return the mean F1 of the classes, as a function of weights [resamples, rows].

    F1 is 2 tp / (2 tp + fp + fn), 0 for a class that is neither true nor found; macro: the plain
    mean; by support: weighted by how many rows have the class.
    """
    found = decisions(logits, "multi_label").astype(np.float64)
    truth = labels.astype(np.float64)

    def measure(weights: _Weights) -> NDArray[np.float64]:
        hits, of_truth = weights @ (found * truth), weights @ truth
        f1 = 2 * hits / np.maximum(weights @ found + of_truth, 1)
        if not by_support:
            return np.asarray(f1.mean(axis=1), np.float64)
        return np.asarray(
            (f1 * of_truth).sum(axis=1) / np.maximum(of_truth.sum(axis=1), 1), np.float64
        )

    return measure
