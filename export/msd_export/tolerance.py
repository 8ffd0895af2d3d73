"""The tolerances of an export, each with its reason, and the check against them.

Exports outside the tolerance are not written. Also the content of parity.json, for one runtime or
two. The comparison itself is in `parity`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msd_deploy.artifacts.manifest import SCHEMA_VERSION, Json
from msd_deploy.errors import ParityError
from msd_deploy.metrics import LogitsByView, metric_name
from msd_deploy.problem import Problem
from msd_deploy.views import View
from msd_export.formats import PRECISIONS, Precision, Variant, variant_name
from msd_export.parity import ConfidenceShift, ViewParity

_POINTS = 100.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an export may be from its source.

    Attributes:
        max_abs_error: Of any logit of any view; None where only decisions count.
        min_agreement: Share of equal decisions, on each view; on single views, of those that the
            source is sure of.
        max_drift: Mean error of a view's logits as a share of how much the source's logits vary;
            None where only decisions count.
        max_confidence_shift: Difference of a view's mean confidence from the source's, 0 to 1; see
            `ConfidenceShift`. None: not limited.
    """

    max_abs_error: float | None
    min_agreement: float
    max_drift: float | None = None
    max_confidence_shift: float | None = None


# Mean confidence, of a tiny student in every target and precision on 500 test examples: at most
# 1e-6 in fp32, 6e-5 in fp16, .0017 in 8 and 6 bits and .0048 in 4 bits, in any view. The limits are
# ten times as much or more: other models and temperatures below 1 move more.
#
# Integer weights and activations: logits move visibly, and decisions near the border flip either
# way: in 3 of 100 examples of a mobile student of 11 classes, which lost no accuracy by it. Drift
# was .002 to .07 for trained students, .126 for one of random weights; weights damaged so that
# hardly a decision changed made it .39, an ignored image_present 3.2.
_INTEGER = Tolerance(None, 0.95, 0.25, 0.02)
# Sixteen values a weight: logits move more (drift: .05 and .08 for a trained student), and the gate
# on the metric is what decides. Twice as much drift is granted as in 8 bits.
_COARSE = Tolerance(None, 0.9, 0.5, 0.05)
# Ten bits of mantissa: relative error 1e-3 an operation, so only near-ties flip. Of what logits
# vary by, rounding took .0026 to .0084; a wrong mean, channel order or weight took .15 or more.
_HALF = Tolerance(None, 0.995, 0.02, 0.002)

PARITY_TOLERANCE: Mapping[Precision, Tolerance] = {
    # The same float32 arithmetic in another order of summation: errors are below 1e-5 with a few
    # convolutions, and 1.4e-4 was measured after EfficientNet-Lite0's fifty, on logits up to 11.
    "fp32": Tolerance(1e-3, 0.999, None, 0.001),
    "fp16": _HALF,
    "int8": _INTEGER,
    "int8-dynamic": _INTEGER,
    "w8a8": _INTEGER,
    "pal6": _INTEGER,
    "pal4": _COARSE,
    "int4": _COARSE,
}


_LEARN = (
    "Fine-tune the student for int8 (msd distill --from RUN --int8-epochs 3 --out NEW), or use"
    " another precision"
)
_TRAIN = (
    "Use another precision, or train longer: predictions near the decision boundary change more"
    " easily"
)

# Pixels that differ by one step of 255, a rare word cut otherwise: near-ties may flip.
END_TO_END = Tolerance(None, 0.98)


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits that an export is checked against.

    Attributes:
        variant: Target and precision: choose the tolerance.
        max_drop: Most that the metric may lose, 0 to 1. The multimodal view may not lose more;
            a single view may if the interval of its loss includes 0, as it can be chance then.
        examples: Number of requested test examples; None: all.
    """

    variant: Variant
    max_drop: float
    examples: int | None = None

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance of the variant."""
        return PARITY_TOLERANCE[self.variant[1]]


def check_parity(parity: Mapping[View, ViewParity], gate: Gate) -> None:
    """Check a comparison against its gate: logits and decisions of every view.

    Raises:
        ParityError: A view is outside the tolerance; names it, and by how much.
    """
    where = variant_name(gate.variant)
    fix = _LEARN if PRECISIONS[gate.variant[1]].can_be_trained_for else _TRAIN
    for view, result in parity.items():
        check_view(view, result, gate.tolerance, where, fix=fix)
        _check_loss(view, result, gate.max_drop, where, fix=fix)


def check_cut(parity: Mapping[View, ViewParity], max_drop: float) -> None:
    """Check what a model with a cut vocabulary loses against the whole one.

    Raises:
        ParityError: A view loses more; names it, and how much.
    """
    for view, result in parity.items():
        _check_loss(
            view, result, max_drop, "--cut-vocab", fix="Keep more word pieces with --cut-vocab N"
        )


def _check_loss(view: View, result: ViewParity, max_drop: float, where: str, *, fix: str) -> None:
    if not result.has_labels:  # the agreement has a limit of its own
        return
    if result.drop <= max_drop or (view is not View.MULTIMODAL and result.loss.low <= 0):
        return
    raise ParityError(
        f"the {view} view loses {result.drop * _POINTS:.2f} percentage"
        f" points [{result.loss.low * _POINTS:.2f}, {result.loss.high * _POINTS:.2f}] on"
        f" {result.export.examples} test examples, more than --max-drop {max_drop * _POINTS:g}",
        where=where,
        fix=f"{fix}, or raise --max-drop",
    )


def uncertain_losses(parity: Mapping[View, ViewParity], gate: Gate) -> tuple[str, ...]:
    """Return a sentence for each view whose loss may exceed the limit, by its interval."""
    limit = gate.max_drop
    return tuple(
        f"the {view} view may lose more than {limit * _POINTS:g} percentage points: on"
        f" {result.export.examples} test examples the interval of its loss reaches"
        f" {result.loss.high * _POINTS:.2f}"
        for view, result in parity.items()
        if result.has_labels and result.drop <= limit < result.loss.high
    )


def check_view(
    view: View, result: ViewParity, tolerance: Tolerance, where: str, *, fix: str = _TRAIN
) -> None:
    """Check one view against a tolerance.

    Args:
        view: The view.
        result: Its comparison with the source.
        tolerance: What is allowed.
        where: What is compared.
        fix: What to do where too many decisions differ.

    Raises:
        ParityError: It is outside the tolerance.
    """
    limit = tolerance.max_abs_error
    if limit is not None and result.max_abs_error > limit:
        raise ParityError(
            f"{view} logits differ by up to {result.max_abs_error:.2e}, more than {limit:.0e}",
            where=where,
        )
    if tolerance.max_drift is not None and result.drift > tolerance.max_drift:
        raise ParityError(
            f"the mean error of the {view} logits is {result.drift:.1%} of their spread, more than"
            f" {tolerance.max_drift:.0%}",
            where=where,
            fix="Rounding errors are smaller: check the conversion, or use another precision",
        )
    # An image without its question leaves a tie between classes, and any rounding flips a tie.
    agreement, kind = result.agreement, "test examples"
    if view is not View.MULTIMODAL:
        agreement, kind = result.sure_agreement, "test examples where the source is confident"
    if agreement < tolerance.min_agreement:
        raise ParityError(
            f"the {view} view agrees with the source on {agreement:.2%} of the {kind}"
            f" ({result.export.examples} in all), less than {tolerance.min_agreement:.1%}",
            where=where,
            fix=fix,
        )
    if result.sure_abstention_agreement < tolerance.min_agreement:
        raise ParityError(
            f"the {view} view abstains as the source does on {result.sure_abstention_agreement:.2%}"
            " of the test examples whose probability is not close to the threshold, less than"
            f" {tolerance.min_agreement:.1%}",
            where=where,
            fix=fix,
        )
    _check_confidence(view, result.confidence, tolerance, where, fix=fix)


def _check_confidence(
    view: View, confidence: ConfidenceShift, tolerance: Tolerance, where: str, *, fix: str
) -> None:
    most = tolerance.max_confidence_shift
    shift = max(confidence.shift, confidence.certainty, key=abs)
    if most is not None and abs(shift) > most:
        raise ParityError(
            f"the mean confidence of the {view} view shifts by {shift:+.3f}, more than {most:g},"
            f" from {confidence.source:.3f} to {confidence.export:.3f}: an app's thresholds would"
            " not hold",
            where=where,
            fix=fix,
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
            "max_drift": gate.tolerance.max_drift,
            "max_confidence_shift": gate.tolerance.max_confidence_shift,
            "max_drop": gate.max_drop,
        },
        "views": {view.value: result.as_json() for view, result in parity.items()},
        "notes": list(notes),
    }


def second_runtime_as_json(
    parity: Mapping[View, ViewParity], logits: LogitsByView, first: LogitsByView, *, runtime: str
) -> Json:
    """Return the part of parity.json on a second runtime.

    Args:
        parity: Its comparison with the source.
        logits: Its logits.
        first: Those of the first runtime.
        runtime: Its name.
    """
    return {
        "runtime": runtime,
        "views": {view.value: result.as_json() for view, result in parity.items()},
        "max_abs_difference": {
            view.value: float(np.abs(logits[view] - first[view]).max()) for view in parity
        },
    }
