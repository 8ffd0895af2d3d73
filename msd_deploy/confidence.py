"""Quality of probabilities: calibration error, Brier score, reliability; numpy alone.

Where one class is decided, the confidence of an example is the probability of that class, and its
outcome is 1 if the decision is correct (soft labels: the decided answer's score). In multi-label
tasks every class of every example is a decision; its confidence is the probability of the class and
its outcome whether the class is true. Intervals resample examples, as those of `metrics`.
Torch-free.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from msd_deploy.metrics import (
    LabelArray,
    LogitArray,
    decisions,
    probabilities,
    resampled_means,
    with_interval,
)
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.views import View

_BINS = 15

_Values = NDArray[np.float64]


class Bin(TypedDict):
    """Decisions of similar confidence: their number, mean confidence and mean outcome, 0 to 1."""

    decisions: int
    confidence: float
    outcome: float


class ConfidenceJson(TypedDict):
    """Calibration of one view on one split.

    ece is the expected calibration error; ece_by_chance is what it would be on average if every
    probability were exactly right and the outcomes independent, None of soft labels; brier is the
    Brier score. All are 0 to 1, the Brier score of a softmax 0 to 2. gap is mean confidence less
    mean outcome: above 0 the model is overconfident (multi-label: states classes too often).
    """

    ece: Interval
    ece_by_chance: float | None
    brier: Interval
    gap: Interval
    confidence: float
    outcome: float
    reliability: list[Bin]


def confidence_as_json(logits: LogitArray, labels: LabelArray, problem: Problem) -> ConfidenceJson:
    """Measure the calibration of logits [rows, classes], already divided by their temperature.

    Args:
        logits: Over their temperature.
        labels: See `score_logits`; every row has one.
        problem: Kind of the task.
    """
    confidence = confidences(logits, problem)
    outcome = outcomes_of(logits, labels, problem)
    errors = _brier_errors(logits, labels, problem)
    gaps = (confidence - outcome).mean(axis=1)
    bins = _bins_of(confidence)
    sums = _sums_by_bin(bins, confidence, outcome)
    return {
        "ece": _ece_interval(sums),
        "ece_by_chance": None if problem == "soft_label" else _ece_by_chance(bins, confidence),
        "brier": with_interval(float(errors.mean()), resampled_means(errors[:, None])[:, 0]),
        "gap": with_interval(float(gaps.mean()), resampled_means(gaps[:, None])[:, 0]),
        "confidence": round(float(confidence.mean()), 6),
        "outcome": round(float(outcome.mean()), 6),
        "reliability": [
            {
                "decisions": int(count),
                "confidence": round(float(stated / count), 6),
                "outcome": round(float(true / count), 6),
            }
            for count, stated, true in sums.sum(axis=0)
        ],
    }


def confidence_of_views(
    logits: Mapping[View, LogitArray], labels: LabelArray, problem: Problem
) -> dict[str, ConfidenceJson]:
    """Measure the calibration of each view; see `confidence_as_json`."""
    return {
        view.value: confidence_as_json(values, labels, problem) for view, values in logits.items()
    }


def calibration_error(logits: LogitArray, labels: LabelArray, problem: Problem) -> Interval:
    """Compute the expected calibration error alone; see `confidence_as_json`."""
    confidence = confidences(logits, problem)
    outcome = outcomes_of(logits, labels, problem)
    return _ece_interval(_sums_by_bin(_bins_of(confidence), confidence, outcome))


def confidences(logits: LogitArray, problem: Problem) -> _Values:
    """Return the confidence of every decision, [rows, decisions of each]; see the module."""
    found = probabilities(logits, problem)
    return found.max(axis=1, keepdims=True) if decides_one_class(problem) else found


def outcomes_of(logits: LogitArray, labels: LabelArray, problem: Problem) -> _Values:
    """Return the outcome of every decision, [rows, decisions of each]; see the module."""
    if problem == "multi_label":
        return labels.astype(np.float64)
    decided = decisions(logits, problem)
    if problem == "single_label":
        return np.asarray(decided == labels, np.float64)[:, None]
    return np.asarray(labels[np.arange(len(logits)), decided], np.float64)[:, None]


def _brier_errors(logits: LogitArray, labels: LabelArray, problem: Problem) -> _Values:
    """Return the squared error of each row's probabilities (Brier 1950).

    The sum over the classes of a softmax, 0 to 2; the mean over independent classes, 0 to 1.
    """
    found = probabilities(logits, problem)
    if problem == "single_label":
        truth = np.eye(found.shape[1])[labels.astype(np.int64)]
        return np.asarray(((found - truth) ** 2).sum(axis=1), np.float64)
    return np.asarray(((found - labels) ** 2).mean(axis=1), np.float64)


def _bins_of(confidence: _Values) -> NDArray[np.int64]:
    """Return the bin of each decision, shaped as they are: 15 bins of equally many.

    Equal confidences are in one bin, so that there may be fewer.
    """
    ordered = np.sort(confidence, axis=None)
    edges = np.unique(ordered[np.arange(1, _BINS) * len(ordered) // _BINS])
    bins = np.searchsorted(edges, confidence, side="right")
    return np.unique(bins, return_inverse=True)[1].reshape(confidence.shape)


def _sums_by_bin(bins: NDArray[np.int64], confidence: _Values, outcome: _Values) -> _Values:
    """Return decisions, confidence and outcome of each row's bins, summed: [rows, bins, 3]."""
    rows, count = len(bins), int(bins.max()) + 1
    place = (np.arange(rows)[:, None] * count + bins).ravel()
    sums = [
        np.bincount(place, values, minlength=rows * count)
        for values in (None, confidence.ravel(), outcome.ravel())
    ]
    return np.stack(sums, axis=1).reshape(rows, count, 3).astype(np.float64)


def _ece_interval(sums: _Values) -> Interval:
    """Return the expected calibration error from `_sums_by_bin`, with its interval.

    A resample adds noise to that of the examples, and the error is a mean of absolute values, so
    resampled errors are too high: they are shifted to have the error as their mean. The interval is
    that of the estimate on as many examples, which noise raises above 0; see `_ece_by_chance`.
    """
    rows, bins, _ = sums.shape
    means = resampled_means(sums.reshape(rows, -1))
    resampled = np.array([_ece(each) for each in means.reshape(-1, bins, 3)])
    value = _ece(sums.sum(axis=0))
    return with_interval(value, np.maximum(resampled - resampled.mean() + value, 0))


def _ece(sums: _Values) -> float:
    """Return the expected calibration error from sums, or means, of each bin, [bins, 3].

    The mean over the decisions of |mean confidence - mean outcome| of their bin (Naeini et al.
    2015; bins of equal mass after Nixon et al. 2019).
    """
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / sums[:, 0].sum())


def _ece_by_chance(bins: NDArray[np.int64], confidence: _Values) -> float:
    """Return the mean error where each outcome is 1 with exactly the stated probability.

    An expected calibration error is above 0 for a perfectly calibrated model too, since each bin
    has few examples: the sum of its outcomes has the variance sum p (1 - p), and the mean absolute
    value of a normal variable is sqrt(2 / pi) standard deviations.
    """
    variance = np.bincount(bins.ravel(), (confidence * (1 - confidence)).ravel())
    return round(float(np.sqrt(2 / np.pi * variance).sum() / confidence.size), 6)
