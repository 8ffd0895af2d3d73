"""Metrics, decisions and probabilities from logits, with bootstrap intervals; numpy alone.

Training, export and benchmark use the main metric of a problem: accuracy, micro F1 or VQA accuracy.
The extra metrics are for comparison with the literature (AUROC, macro and weighted F1) and for
imbalanced classes (balanced accuracy), defined as scikit-learn's with default settings. Torch-free,
for runtimes without torch.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import Json
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import (
    FULL_SCORE_VOTES,
    ExtraMetric,
    Problem,
    decides_one_class,
    has_independent_classes,
)
from msd_deploy.views import View

LogitArray = NDArray[np.float32]
LabelArray = NDArray[np.int64] | NDArray[np.float32]
LogitsByView = dict[View, LogitArray]

_METRICS: Mapping[Problem, str] = {
    "single_label": "accuracy",
    "multi_label": "micro_f1",
    "soft_label": "vqa_accuracy",
}
_RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 50
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Score:
    """A metric on a split.

    Attributes:
        value: 0 to 1.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        examples: Number of rows.
    """

    value: float
    low: float
    high: float
    examples: int

    def as_json(self) -> dict[str, object]:
        """Return the score as JSON values."""
        interval = [round(self.low, 6), round(self.high, 6)]
        return {"value": round(self.value, 6), "interval": interval, "examples": self.examples}


def metric_name(problem: Problem) -> str:
    """Return the name of a problem's main metric."""
    return _METRICS[problem]


def decisions(logits: LogitArray, problem: Problem) -> NDArray[np.int64]:
    """Return decisions: classes [rows], or 0/1 [rows, classes] where the probability is >= 0.5."""
    if decides_one_class(problem):
        return np.asarray(logits.argmax(axis=1), np.int64)
    return (logits >= 0).astype(np.int64)


def decided_labels(logits: LogitArray, problem: Problem) -> LabelArray:
    """Return decisions as labels, against which other logits are scored where there are none."""
    decided = decisions(logits, problem)
    if problem == "single_label":
        return decided
    if problem == "soft_label":
        decided = np.eye(logits.shape[1], dtype=np.int64)[decided]
    return decided.astype(np.float32)


def has_constant_decisions(logits: LogitArray, problem: Problem) -> bool:
    """Return whether all rows have one decision, so that agreement is not informative."""
    decided = decisions(logits, problem)
    return bool((decided == decided[:1]).all())


def agreement(first: LogitArray, second: LogitArray, problem: Problem) -> float:
    """Return the share of equal decisions, per row, or per row and class if multi-label."""
    return float((decisions(first, problem) == decisions(second, problem)).mean())


def score_logits(logits: LogitArray, labels: LabelArray, problem: Problem) -> Score:
    """Compute the main metric of logits [rows, classes] with its interval; see `row_counts`.

    The interval resamples rows with replacement, 1,000 times with a fixed seed. Where all rows are
    correct, or all wrong, resampling cannot vary, and the exact bound is used (Clopper & Pearson
    1934): at a value of .025^(1/rows) all rows are correct with a probability of 2.5 %.
    """
    counts = row_counts(logits, labels, problem)
    value = float(ratio_of_sums(counts.sum(axis=0)))
    rows = len(counts)
    resampled = np.stack([counts[drawn].sum(axis=0) for drawn in bootstrap_rows(rows)])
    low, high = percentile_interval(ratio_of_sums(resampled))
    bound = bound_of_certainty(rows)
    if low == high == 1:
        low = bound
    elif low == high == 0:
        high = 1 - bound
    return Score(value, low, high, rows)


def bound_of_certainty(rows: int) -> float:
    """Return the share that is right in all of so many rows with a probability of 2.5 %."""
    return float(((1 - _CONFIDENCE) / 2) ** (1 / rows))


def bootstrap_rows(rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield the row indices, int64 [rows], of each resample, from a fixed seed."""
    generator = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield generator.integers(0, rows, rows)


def resample_weights(rows: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each row is in each resample, float64 [resamples, rows], 50 at a time."""
    draws = bootstrap_rows(rows)
    while chunk := list(itertools.islice(draws, _RESAMPLES_AT_ONCE)):
        weights = np.stack([np.bincount(drawn, minlength=rows) for drawn in chunk])
        yield weights.astype(np.float64)


def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of values [rows, columns] in each resample, [resamples, columns]."""
    rows = len(values)
    return np.concatenate([weights @ values / rows for weights in resample_weights(rows)])


def with_interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """Return a value with the 95 % interval of its resampled values, rounded to 6 decimals."""
    interval = [round(end, 6) for end in percentile_interval(resampled)]
    return {"value": round(value, 6), "interval": interval}


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return both ends of the 95 % percentile interval of resampled values."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def metric_value(logits: LogitArray, labels: LabelArray, problem: Problem) -> float:
    """Compute the main metric without its interval, 0 to 1; see `score_logits`."""
    return float(ratio_of_sums(row_counts(logits, labels, problem).sum(axis=0)))


def score_views(
    logits: Mapping[View, LogitArray], labels: LabelArray, problem: Problem
) -> dict[View, Score]:
    """Compute the main metric of each view; see `score_logits`."""
    return {view: score_logits(values, labels, problem) for view, values in logits.items()}


def row_counts(logits: LogitArray, labels: LabelArray, problem: Problem) -> NDArray[np.int64]:
    """Return numerator and denominator of the main metric per row, int64 [rows, 2].

    Each metric is a ratio of sums. Accuracy is correct / rows; micro F1 is 2 tp / (2 tp + fp + fn).
    VQA accuracy is the mean score of the most probable answer, min(1, annotators who gave it / 3)
    (Antol et al. 2015), in thirds. The official evaluation averages over all subsets of 9 of the 10
    annotators, which we omit; it is slightly lower where 2 or 3 of them agree.
    """
    decided = decisions(logits, problem)
    if problem == "single_label":
        right = (decided == labels).astype(np.int64)
        return np.stack([right, np.ones_like(right)], axis=1)
    if problem == "soft_label":
        score = labels[np.arange(len(labels)), decided] * FULL_SCORE_VOTES
        thirds = np.rint(score).astype(np.int64)
        return np.stack([thirds, np.full_like(thirds, FULL_SCORE_VOTES)], axis=1)
    truth = labels.astype(np.int64)
    true_positives = (decided * truth).sum(axis=1)
    wrong = (decided != truth).sum(axis=1)
    return np.stack([2 * true_positives, 2 * true_positives + wrong], axis=1)


def ratio_of_sums(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide sums of `row_counts` [..., 2]; 0 / 0 (no true and no predicted class) is 1."""
    numerator, denominator = sums[..., 0].astype(np.float64), sums[..., 1].astype(np.float64)
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), 1.0)


_Weights = NDArray[np.float64]
_Measure = Callable[[_Weights], NDArray[np.float64]]


def score_extra_metrics(
    logits: Mapping[View, LogitArray], labels: LabelArray, metrics: tuple[ExtraMetric, ...]
) -> dict[ExtraMetric, dict[View, Score]]:
    """Compute extra metrics of each view, with the intervals of `score_logits`.

    Args:
        logits: Per view [rows, classes].
        labels: See `score_logits`; every row has one.
        metrics: auroc needs a single-label problem of two classes, balanced_accuracy a single-label
            problem, the F1s a multi-label one.
    """
    return {
        name: {view: _score(values, labels, name) for view, values in logits.items()}
        for name in metrics
    }


def extra_metrics_as_json(
    scores: Mapping[ExtraMetric, Mapping[View, Score]],
) -> dict[str, dict[str, Json]]:
    """Return extra metrics as JSON values, by metric and view."""
    return {
        name: {view.value: score.as_json() for view, score in by_view.items()}
        for name, by_view in scores.items()
    }


def _score(logits: LogitArray, labels: LabelArray, metric: ExtraMetric) -> Score:
    measure: _Measure
    if metric == "auroc":
        measure = _auroc_measure(logits, labels)
    elif metric == "balanced_accuracy":
        measure = _recall_measure(logits, labels)
    else:
        measure = _f1_measure(logits, labels, by_support=metric == "weighted_f1")
    rows = len(labels)
    resampled: list[float] = []
    for weights in resample_weights(rows):
        resampled += measure(weights).tolist()
    low, high = percentile_interval(np.array(resampled))
    return Score(float(measure(np.ones((1, rows)))[0]), low, high, rows)


def _auroc_measure(logits: LogitArray, labels: LabelArray) -> _Measure:
    """Return the area under the ROC curve as a function of row weights [resamples, rows].

    P(s+ > s-) + P(s+ = s-) / 2 over pairs of a row of the second class and one of the first (Hanley
    & McNeil 1982), where s is the difference of the two logits; 0.5 where a class has no row.
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
    """Return balanced accuracy as a function of row weights [resamples, rows].

    The mean recall of the classes that have a row (Brodersen et al. 2010): 1 / classes for a
    constant prediction.
    """
    is_right = decisions(logits, "single_label") == labels
    truth = np.asarray(labels[:, None] == np.unique(labels), np.float64)
    recalled = truth * is_right[:, None]

    def measure(weights: _Weights) -> NDArray[np.float64]:
        support = weights @ truth
        recall = (weights @ recalled) / np.maximum(support, 1)
        return np.asarray(recall.sum(axis=1) / (support > 0).sum(axis=1), np.float64)

    return measure


def _f1_measure(logits: LogitArray, labels: LabelArray, *, by_support: bool) -> _Measure:
    """Return macro or weighted F1 as a function of row weights [resamples, rows].

    The mean over classes of 2 tp / (2 tp + fp + fn), 0 for a class that is neither true nor
    predicted; `by_support` weights it by the number of rows of each class.
    """
    predicted = decisions(logits, "multi_label").astype(np.float64)
    truth = labels.astype(np.float64)

    def measure(weights: _Weights) -> NDArray[np.float64]:
        hits, of_truth = weights @ (predicted * truth), weights @ truth
        f1 = 2 * hits / np.maximum(weights @ predicted + of_truth, 1)
        if not by_support:
            return np.asarray(f1.mean(axis=1), np.float64)
        return np.asarray(
            (f1 * of_truth).sum(axis=1) / np.maximum(of_truth.sum(axis=1), 1), np.float64
        )

    return measure


def probabilities(logits: NDArray[np.float32], problem: Problem) -> NDArray[np.float64]:
    """Return the softmax [rows, classes], or a sigmoid of each class if they are independent."""
    wide = logits.astype(np.float64)
    if has_independent_classes(problem):
        return np.asarray(0.5 * (1 + np.tanh(wide / 2)), np.float64)
    raised = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float64)
