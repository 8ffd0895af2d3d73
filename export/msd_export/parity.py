"""Verification: is the exported model the model that was evaluated? Numbers first, accuracy second.

An export that fails does not come to exist. Tolerances live here, each with its reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts import SCHEMA_VERSION, Json
from msd_deploy.data.prepared import PreparedSplit
from msd_deploy.errors import ParityError
from msd_deploy.evaluation import (
    LogitArray,
    LogitsByView,
    Score,
    agreement,
    decides_all_alike,
    decisions,
    metric_name,
    probabilities,
    score_logits,
)
from msd_deploy.problem import Problem
from msd_deploy.views import View
from msd_export.formats import Form, Precision, form_name
from msd_export.predictors import Predictor

_BATCH = 64
_POINTS = 100.0


_SURE_LEAD = 0.1
_LEAST_SPREAD = 0.25
"""Logits that vary less than this decide nothing that rounding could spoil."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an export may be from its source.

    Attributes:
        max_abs_error: Of any logit of any view; None where only decisions count.
        min_agreement: Share of equal decisions, on each view; on single views, of those that the
            source is sure of.
        max_drift: Mean error of a view's logits as a share of how much the source's logits vary;
            None where only decisions count.
    """

    max_abs_error: float | None
    min_agreement: float
    max_drift: float | None = None


# Integer weights and activations: logits move visibly, decisions near the border may flip.
_INTEGER = Tolerance(None, 0.98)
# Sixteen values a weight, or 64: logits move more, and the gate on the metric is what decides.
_COARSE = Tolerance(None, 0.9)
# Ten bits of mantissa: relative error 1e-3 an operation, so only near-ties flip. Of what logits
# vary by, rounding took .0026 to .0084; a wrong mean, channel order or weight took .15 or more.
_HALF = Tolerance(None, 0.995, 0.02)

PARITY_TOLERANCE: Mapping[Precision, Tolerance] = {
    # The same float32 arithmetic in another order of summation: errors are below 1e-5 with a few
    # convolutions, and 1.4e-4 was measured after EfficientNet-Lite0's fifty, on logits up to 11.
    "fp32": Tolerance(1e-3, 0.999),
    "fp16": _HALF,
    "int8": _INTEGER,
    "int8-dynamic": _INTEGER,
    "w8a8": _INTEGER,
    "pal6": _INTEGER,
    "pal4": _COARSE,
    "int4": _COARSE,
}


@dataclass(frozen=True, slots=True)
class ViewParity:
    """One view's comparison with the source.

    Attributes:
        max_abs_error: Of any logit.
        mean_abs_error: Over all logits.
        agreement: Share of equal decisions.
        sure_agreement: The same of those that the source is sure of: its probability leads the next
            class's (multi-label: that of the opposite) by a tenth. 1 if it is sure of none.
        drift: The mean error as a share of the source's spread: the standard deviation of a class's
            logits in a view, mean of all, or `_LEAST_SPREAD` if that is more.
        source: The source's score.
        export: The export's score.
    """

    max_abs_error: float
    mean_abs_error: float
    agreement: float
    sure_agreement: float
    drift: float
    source: Score
    export: Score

    @property
    def drop(self) -> float:
        """How much of the metric was lost, 0 to 1; negative if some was won."""
        return self.source.value - self.export.value

    def as_json(self) -> Json:
        """Return the comparison as JSON values."""
        return {
            "max_abs_error": self.max_abs_error,
            "mean_abs_error": self.mean_abs_error,
            "agreement": round(self.agreement, 6),
            "sure_agreement": round(self.sure_agreement, 6),
            "drift": round(self.drift, 6),
            "drop": round(self.drop, 6),
            "source": self.source.as_json(),
            "export": self.export.as_json(),
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
    exported: LogitsByView, source: LogitsByView, split: PreparedSplit, problem: Problem
) -> dict[View, ViewParity]:
    """Compare an export's logits with its source's, view by view.

    Raises:
        ParityError: The export gave NaN or infinite logits.
    """
    for view, logits in exported.items():
        if not np.isfinite(logits).all():
            raise ParityError(f"the export gives NaN or infinite logits on the {view} view")
    spread = float(np.mean([source[view].std(axis=0) for view in exported]))
    return {
        view: _compare_view(logits, source[view], split, problem, max(spread, _LEAST_SPREAD))
        for view, logits in exported.items()
    }


def _compare_view(
    exported: LogitArray,
    source: LogitArray,
    split: PreparedSplit,
    problem: Problem,
    spread: float,
) -> ViewParity:
    error = np.abs(exported - source)
    return ViewParity(
        float(error.max()),
        float(error.mean()),
        agreement(exported, source, problem),
        _sure_agreement(exported, source, problem),
        float(error.mean()) / spread,
        score_logits(source, split.labels, problem),
        score_logits(exported, split.labels, problem),
    )


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


def notes_on_source(source: LogitsByView, problem: Problem) -> list[str]:
    """Return what weakens a comparison with this source: views on which it decides nothing.

    Any export that answers always the same would agree with it there.
    """
    alike = [view for view, logits in source.items() if decides_all_alike(logits, problem)]
    return [
        f"On the {view} view the source decides all {len(source[view])} examples alike: agreement"
        " says nothing there"
        for view in alike
    ]


@dataclass(frozen=True, slots=True)
class Gate:
    """What an export is held against.

    Attributes:
        form: Target and precision: choose the tolerance.
        max_drop: Most that the multimodal metric may lose, 0 to 1. Single views are reported, not
            gated: what they lose shows in their agreement.
        examples: Test examples asked for; None: all.
    """

    form: Form
    max_drop: float
    examples: int | None = None

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance of the form."""
        return PARITY_TOLERANCE[self.form[1]]


def check_parity(parity: Mapping[View, ViewParity], gate: Gate) -> None:
    """Hold a comparison against its gate, logits and decisions of every view.

    Raises:
        ParityError: Names what is beyond tolerance, and by how much.
    """
    where = form_name(gate.form)
    for view, result in parity.items():
        _check_view(view, result, gate.tolerance, where)
    whole = parity[View.MULTIMODAL]
    if whole.drop > gate.max_drop:
        raise ParityError(
            f"loses {whole.drop * _POINTS:.2f} points on {whole.export.examples} test examples,"
            f" more than --max-drop {gate.max_drop * _POINTS:g}",
            where=where,
            fix="Train longer, use another precision, or allow more",
        )


def _check_view(view: View, result: ViewParity, tolerance: Tolerance, where: str) -> None:
    limit = tolerance.max_abs_error
    if limit is not None and result.max_abs_error > limit:
        raise ParityError(
            f"{view} logits differ by up to {result.max_abs_error:.2e}, more than {limit:.0e}",
            where=where,
        )
    if tolerance.max_drift is not None and result.drift > tolerance.max_drift:
        raise ParityError(
            f"{view} logits are off by {result.drift:.1%} of what they vary, more than"
            f" {tolerance.max_drift:.0%}",
            where=where,
            fix="Rounding alone is less: the conversion may be wrong; use another precision",
        )
    # What a picture alone says of a question is a tie, and any rounding flips a tie.
    found, kind = result.agreement, "test examples"
    if view is not View.MULTIMODAL:
        found, kind = result.sure_agreement, "test examples where the source is sure"
    if found < tolerance.min_agreement:
        raise ParityError(
            f"on the {view} view it decides as the source in {found:.2%} of the"
            f" {kind} ({result.export.examples} in all), less than {tolerance.min_agreement:.1%}",
            where=where,
            fix="Use another precision, or train longer: an unsure model flips more easily",
        )


def parity_as_json(
    parity: Mapping[View, ViewParity],
    gate: Gate,
    *,
    runtime: str,
    problem: Problem,
    notes: Sequence[str] = (),
) -> Json:
    """Return parity.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "runtime": runtime,
        "split": "test",
        "examples_limit": gate.examples,
        "metric": metric_name(problem),
        "tolerance": {
            "max_abs_error": gate.tolerance.max_abs_error,
            "min_agreement": gate.tolerance.min_agreement,
            "max_drop": gate.max_drop,
        },
        "views": {view.value: result.as_json() for view, result in parity.items()},
        "notes": list(notes),
    }
