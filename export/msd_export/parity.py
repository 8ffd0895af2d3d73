"""Compare the logits of an exported model with those of its source, view by view.

Covers errors of the logits, agreement of decisions and the loss of the metric. Tolerances are in
`tolerance`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from msd_deploy.artifacts.manifest import Json
from msd_deploy.confidence import calibration_error, confidences
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ParityError
from msd_deploy.metrics import (
    LabelArray,
    LogitArray,
    LogitsByView,
    Score,
    agreement,
    bootstrap_rows,
    decided_labels,
    decisions,
    has_constant_decisions,
    percentile_interval,
    probabilities,
    ratio_of_sums,
    resampled_means,
    row_counts,
    score_logits,
)
from msd_deploy.operating_point import OperatingPoint, deciding_logits
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import Problem, decides_one_class, has_independent_classes
from msd_deploy.temperatures import UNCALIBRATED, Temperatures
from msd_deploy.views import View
from msd_export.signature import Predictor

_BATCH = 64
_SURE_LEAD = 0.1
_SURE_DISTANCE = 0.05
_LEAST_PROBABILITY = 1e-12
_LEAST_SPREAD = 0.25
"""Logits that vary less than this decide nothing that rounding could spoil."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What an export lost of the metric, and whether that can be chance.

    Attributes:
        drop: Source's metric less the export's, 0 to 1; negative if some was won. Rounded, as the
            ends of the interval, to 6 decimal places.
        low: Lower end of its 95 % interval: test examples resampled, the same for both.
        high: Upper end.
        only_source_right: Examples that the source alone gets wholly right.
        only_export_right: Examples that the export alone gets wholly right.
        p_value: McNemar's exact test (McNemar 1947; binomial form): how likely so uneven a
            division of these examples is where both err alike.
    """

    drop: float
    low: float
    high: float
    only_source_right: int
    only_export_right: int
    p_value: float

    def as_json(self) -> Json:
        """Return the loss as JSON values."""
        return {
            "drop": self.drop,
            "drop_interval": [self.low, self.high],
            "mcnemar": {
                "only_source_right": self.only_source_right,
                "only_export_right": self.only_export_right,
                "p_value": round(self.p_value, 6),
            },
        }


@dataclass(frozen=True, slots=True)
class ConfidenceShift:
    """Mean confidence of an export less that of its source, both over their temperatures.

    An app compares probabilities with a threshold, and rounding can move them all in one direction,
    or away from 1/2, without changing a decision.

    Attributes:
        source: The source's mean confidence, 0 to 1; see `confidences`.
        export: The export's.
        low: Lower end of the 95 % interval of the difference: test examples resampled.
        high: Upper end.
        certainty: In multi-label tasks the same difference of max(p, 1 - p); else that of p.
        source_error: The source's expected calibration error; None without labels.
        export_error: The export's.
    """

    source: float
    export: float
    low: float
    high: float
    certainty: float
    source_error: Interval | None
    export_error: Interval | None

    @property
    def shift(self) -> float:
        """The export's less the source's, rounded to 6 decimal places."""
        return round(self.export - self.source, 6)

    def as_json(self) -> Json:
        """Return the shift as JSON values."""
        errors = {"source_ece": self.source_error, "export_ece": self.export_error}
        return {
            "source": round(self.source, 6),
            "export": round(self.export, 6),
            "shift": self.shift,
            "shift_interval": [round(self.low, 6), round(self.high, 6)],
            "certainty_shift": round(self.certainty, 6),
            **(errors if self.source_error else {}),
        }


@dataclass(frozen=True, slots=True)
class ViewParity:
    """One view's comparison with the source.

    Attributes:
        max_abs_error: Of any logit.
        mean_abs_error: Over all logits.
        kl: KL(source || export) of the output distributions, nats, mean over the examples; of
            independent classes the sum of theirs.
        agreement: Share of equal decisions.
        sure_agreement: The same of those that the source is sure of: its probability leads the next
            class's (multi-label: that of the opposite) by a tenth. 1 if it is sure of none.
        drift: The mean error as a share of the source's spread: the standard deviation of a class's
            logits, mean of all classes and views, or `_LEAST_SPREAD` if that is more.
        source: The source's score.
        export: The export's score.
        loss: What was lost.
        confidence: Comparison of the probabilities.
        abstention_agreement: Share of examples in which both abstain at the operating point, or
            neither does; None without one, and in multi-label tasks.
        sure_abstention_agreement: The same of those whose probability differs from the threshold by
            a twentieth. 1 if there are none.
        has_labels: Whether scores are of labels; else the source's decisions stand for them.
    """

    max_abs_error: float
    mean_abs_error: float
    kl: float
    agreement: float
    sure_agreement: float
    drift: float
    source: Score
    export: Score
    loss: Loss
    confidence: ConfidenceShift
    abstention_agreement: float | None = None
    sure_abstention_agreement: float = 1.0
    has_labels: bool = True

    @property
    def drop(self) -> float:
        """How much of the metric was lost, 0 to 1; negative if some was won."""
        return self.loss.drop

    def as_json(self) -> Json:
        """Return the comparison as JSON values."""
        return {
            "max_abs_error": self.max_abs_error,
            "mean_abs_error": self.mean_abs_error,
            "kl": self.kl,
            "agreement": round(self.agreement, 6),
            "sure_agreement": round(self.sure_agreement, 6),
            **(
                {}
                if self.abstention_agreement is None
                else {
                    "abstention_agreement": round(self.abstention_agreement, 6),
                    "sure_abstention_agreement": round(self.sure_abstention_agreement, 6),
                }
            ),
            "drift": round(self.drift, 6),
            **self.loss.as_json(),
            "source": self.source.as_json(),
            "export": self.export.as_json(),
            "confidence": self.confidence.as_json(),
        }


def predict_split(
    predictor: Predictor,
    split: PreparedSplit,
    view: View,
    *,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> LogitArray:
    """Return a predictor's logits, float32 [rows, classes], of a whole split under a view.

    Args:
        predictor: The model.
        split: The rows.
        view: What the model is shown.
        on_rows: Called with the number of rows that were just done.
    """
    parts = []
    for start in range(0, len(split), _BATCH):
        rows = slice(start, start + _BATCH)
        parts.append(predictor.predict(split.inputs(rows, view)))
        on_rows(len(parts[-1]))
    return np.concatenate(parts)


def predict_every_view(
    predictor: Predictor,
    split: PreparedSplit,
    *,
    on_count: Callable[[int, int], None] = lambda done, total: None,
) -> LogitsByView:
    """Return a predictor's logits of a whole split under each view.

    Args:
        predictor: The model.
        split: The rows.
        on_count: Called with the rows of all views that are done, and their total.
    """
    done, total = 0, len(View) * len(split)

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        on_count(done, total)

    return {view: predict_split(predictor, split, view, on_rows=count) for view in View}


def compare_logits(
    exported: LogitsByView,
    source: LogitsByView,
    split: PreparedSplit,
    problem: Problem,
    *,
    temperatures: Temperatures = UNCALIBRATED,
    point: OperatingPoint | None = None,
) -> dict[View, ViewParity]:
    """Compare an export's logits with its source's, view by view.

    Args:
        exported: The export's, [rows, classes].
        source: The source's.
        split: The rows.
        problem: Kind of the task.
        temperatures: The temperatures of both.
        point: The operating point of both, which decides.

    Raises:
        ParityError: The export gave NaN or infinite logits.
    """
    for view, logits in exported.items():
        if not np.isfinite(logits).all():
            raise ParityError(f"the export returns NaN or infinite logits on the {view} view")
    spread = float(np.mean([source[view].std(axis=0) for view in exported]))
    pair = (exported, source)
    scaled, scaled_source = (temperatures.scaled(logits, split) for logits in pair)
    deciding, deciding_source = (
        deciding_logits(logits, split, problem, temperatures=temperatures, point=point)
        for logits in pair
    )
    return {
        view: _compare_view(
            logits,
            source[view],
            split,
            problem,
            max(spread, _LEAST_SPREAD),
            deciding=(deciding[view], deciding_source[view]),
            confidence=_confidence_shift(scaled[view], scaled_source[view], split, problem),
            abstention=_equal_abstentions(
                scaled[view], scaled_source[view], split, problem, view, point
            ),
        )
        for view, logits in exported.items()
    }


def _compare_view(
    exported: LogitArray,
    source: LogitArray,
    split: PreparedSplit,
    problem: Problem,
    spread: float,
    *,
    deciding: tuple[LogitArray, LogitArray],
    confidence: ConfidenceShift,
    abstention: tuple[float, float] | None,
) -> ViewParity:
    error = np.abs(exported - source)
    own, its = deciding
    has_labels = bool(split.has_label().any())
    labels = split.labels if has_labels else decided_labels(its, problem)
    return ViewParity(
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        kl=divergence(exported, source, problem),
        agreement=agreement(own, its, problem),
        sure_agreement=_sure_agreement(own, its, problem),
        drift=float(error.mean()) / spread,
        source=score_logits(its, labels, problem),
        export=score_logits(own, labels, problem),
        loss=loss_of(own, its, labels, problem),
        confidence=confidence,
        abstention_agreement=abstention and abstention[0],
        sure_abstention_agreement=abstention[1] if abstention else 1.0,
        has_labels=has_labels,
    )


def _equal_abstentions(
    exported: LogitArray,
    source: LogitArray,
    split: PreparedSplit,
    problem: Problem,
    view: View,
    point: OperatingPoint | None,
) -> tuple[float, float] | None:
    """Return the share of rows in which both abstain or neither, of logits over temperatures.

    And of those that are not close to the threshold. None where a model never abstains; in
    multi-label tasks thresholds count in `agreement`.
    """
    if point is None or not decides_one_class(problem):
        return None
    own, its = (point.decides(logits, view, split, problem) for logits in (exported, source))
    distance = np.abs(confidences(source, problem) - point.of_rows(view, split))
    equal, sure = own == its, distance >= _SURE_DISTANCE
    return float(equal.mean()), float(equal[sure].mean()) if sure.any() else 1.0


def _confidence_shift(
    exported: LogitArray, source: LogitArray, split: PreparedSplit, problem: Problem
) -> ConfidenceShift:
    """Compare the probabilities of an export with its source's, of logits over temperatures."""
    before, after = (confidences(logits, problem) for logits in (source, exported))
    shifts, certainty = (after - before).mean(axis=1), (after - before).mean()
    if not decides_one_class(problem):
        certainty = (np.maximum(after, 1 - after) - np.maximum(before, 1 - before)).mean()
    low, high = percentile_interval(resampled_means(shifts[:, None])[:, 0])
    errors: list[Interval | None] = [None, None]
    labelled = split.has_label()
    if labelled.any():
        labels = split.labels[labelled]
        errors = [
            calibration_error(logits[labelled], labels, problem) for logits in (source, exported)
        ]
    return ConfidenceShift(
        float(before.mean()), float(after.mean()), low, high, float(certainty), *errors
    )


def loss_of(exported: LogitArray, source: LogitArray, labels: LabelArray, problem: Problem) -> Loss:
    """Compare the metric of an export's logits [rows, classes] with its source's, row by row."""
    before, after = (row_counts(logits, labels, problem) for logits in (source, exported))
    drop = ratio_of_sums(before.sum(axis=0)) - ratio_of_sums(after.sum(axis=0))
    resampled = np.array(
        [
            ratio_of_sums(before[drawn].sum(axis=0)) - ratio_of_sums(after[drawn].sum(axis=0))
            for drawn in bootstrap_rows(len(before))
        ]
    )
    ends = percentile_interval(resampled)
    # A row is wholly right where its numerator reaches its denominator, whatever the metric.
    right, still_right = before[:, 0] == before[:, 1], after[:, 0] == after[:, 1]
    lost, won = int((right & ~still_right).sum()), int((still_right & ~right).sum())
    p_value = float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    # .97 - .94 is above .03 in floating point, and a limit of .03 allows it.
    lost_share, low, high = (round(float(value), 6) for value in (drop, *ends))
    return Loss(lost_share, low, high, lost, won, p_value)


def divergence(exported: LogitArray, source: LogitArray, problem: Problem) -> float:
    """Return KL(source || export) in nats, mean over rows; see `ViewParity.kl`."""
    p, q = probabilities(source, problem), probabilities(exported, problem)
    divergences = _terms(p, q)
    if has_independent_classes(problem):
        divergences = divergences + _terms(1 - p, 1 - q)
    return float(divergences.sum(axis=1).mean())


def _terms(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p log(p / q), 0 where p is 0."""
    floor = _LEAST_PROBABILITY
    return np.asarray(p * (np.log(np.maximum(p, floor)) - np.log(np.maximum(q, floor))))


def _sure_agreement(exported: LogitArray, source: LogitArray, problem: Problem) -> float:
    equal = decisions(exported, problem) == decisions(source, problem)
    sure = _lead(source, problem) >= _SURE_LEAD
    return float(equal[sure].mean()) if sure.any() else 1.0


def _lead(logits: LogitArray, problem: Problem) -> NDArray[np.float64]:
    """Return how far the decided probability leads, as `decisions` is shaped."""
    if problem == "multi_label":
        return np.asarray(np.abs(np.tanh(logits.astype(np.float64) / 2)))
    ranked = np.sort(probabilities(logits, problem), axis=1)
    return np.asarray(ranked[:, -1] - (ranked[:, -2] if ranked.shape[1] > 1 else 0.0))


def notes_on_source(source: LogitsByView, split: PreparedSplit, problem: Problem) -> list[str]:
    """Return what weakens a comparison with this source: no labels, and constant views.

    Any export with constant predictions would agree with it on a view where it decides nothing.
    """
    unlabelled = (
        "No example has a label: the source's decisions take their place in scores and drop, which"
        " --max-drop does not limit"
    )
    alike = [view for view, logits in source.items() if has_constant_decisions(logits, problem)]
    return [unlabelled] * (not split.has_label().any()) + [
        f"On the {view} view the source predicts the same for all {len(source[view])} examples:"
        " agreement is not informative there"
        for view in alike
    ]
