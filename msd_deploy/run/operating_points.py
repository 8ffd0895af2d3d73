"""Choose a model's operating point on the validation split.

Thresholds lie halfway between two probabilities that occur, so that rounding hardly moves a
decision. docs/confidence.md has the rules and what they were measured on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from msd_deploy.artifacts.manifest import Json
from msd_deploy.confidence import confidences, outcomes_of
from msd_deploy.config.decisions import DecisionConfig, Rule, rule_for
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.data.source import DatasetInfo
from msd_deploy.decision_quality import decisions_of_views, expected_of_views
from msd_deploy.errors import DataError, shortened
from msd_deploy.metrics import LogitArray
from msd_deploy.operating_point import OperatingPoint, point_from_json
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.run.calibration import FEWEST_EXAMPLES
from msd_deploy.temperatures import Temperatures, modalities_of, rows_of_views
from msd_deploy.views import View

_Values = NDArray[np.float64]

_RISK = 0.05
_POSITIVES_OF_SHARED = 30
"""How many true examples of a class the shared threshold weighs as much as: with few, the best
threshold of a class follows chance. Chosen on posters and on a generated long tail of classes
(benchmarks/f1_thresholds.py) among 30, 100, 200 and 400, which differ by .1 to 1 point."""
_NEVER, _ALWAYS = 1.0, 0.0
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Chosen:
    """An operating point with what is to be said about it.

    Attributes:
        point: The operating point.
        notes: Views in which it never or always decides, with the reason.
    """

    point: OperatingPoint
    notes: tuple[str, ...]


def examples_needed(share: float) -> int:
    """Return how many examples a precision or recall needs, above 0 and below 1.

    If as many are all right, a lower share has a probability below 5 %: share ** n <= .05, the
    exact bound of Clopper & Pearson (1934).
    """
    return math.ceil(math.log(_RISK) / math.log(share))


def check_support(
    rule: Rule, split: PreparedSplit, problem: Problem, classes: Sequence[str]
) -> None:
    """Check that a split has enough examples for a rule, whatever the model.

    Args:
        rule: The rule.
        split: Its labelled examples count.
        problem: Kind of the task.
        classes: Names of the classes.

    Raises:
        DataError: It has not; says how many are needed.
    """
    if rule.name not in ("precision", "recall"):
        return
    assert rule.value is not None
    needed, labelled = examples_needed(rule.value), split.has_label()
    of_views = rows_of_views(split)
    view = _main_view(of_views)
    used = labelled & of_views[view]
    add = "Add labelled examples to it, lower the number"
    if problem == "multi_label":
        positives = (split.labels[used] > 0).sum(axis=0)
        few = {n: f"{int(c)}" for n, c in zip(classes, positives, strict=True) if c < needed}
        if few:
            raise DataError(
                f"the split that thresholds are chosen on cannot support {rule}: each class needs"
                f" {needed} true examples, and these have fewer: {_named(few)}",
                fix=f"{add}, or use --decide f1",
            )
    elif used.sum() < needed:
        raise DataError(
            f"the split that thresholds are chosen on cannot support {rule}: the {view} view has"
            f" {int(used.sum())} labelled examples, and {needed} are needed",
            fix=f"{add}, or leave the rule out",
        )


def _main_view(of_views: Mapping[View, NDArray[np.bool_]]) -> View:
    """Return the view that must meet a rule: the multimodal one, or the only one there is."""
    return next((view for view, rows in of_views.items() if rows.any()), View.MULTIMODAL)


def check_decisions(config: DecisionConfig, data: PreparedData) -> None:
    """Check the settings of the operating point with a data set, before a model is trained.

    Raises:
        ConfigError: They are for another kind of problem.
        DataError: See `check_support`.
    """
    rule = rule_for(config, data.info.problem)
    if rule is not None:
        check_support(rule, data.splits["validation"], data.info.problem, data.info.labels)


def choose_point(
    rule: Rule,
    logits: Mapping[View, LogitArray],
    split: PreparedSplit,
    problem: Problem,
    *,
    classes: Sequence[str],
    temperatures: Temperatures,
) -> Chosen:
    """Choose the thresholds of each view by a rule.

    Each on the examples that have the modalities of its view. In a multi-label task with fewer than
    50 of them, thresholds of F1 are .5. A single view that cannot meet the rule never decides
    (precision), or always does (recall), unless the data has no other view.

    Args:
        rule: One for this kind of problem; see `rule_for`.
        logits: Of the validation split, [examples, classes] for all three views.
        split: Examples that the model was not trained on; those with a label are used.
        problem: Kind of the task.
        classes: Names of the classes.
        temperatures: The model's.

    Raises:
        DataError: The main view cannot meet the rule; says what is needed.
    """
    check_support(rule, split, problem, classes)
    labelled = split.has_label()
    rows, all_labels = modalities_of(split, labelled), split.labels[labelled]
    scaled = temperatures.scaled({v: values[labelled] for v, values in logits.items()}, rows)
    used = rows_of_views(rows)
    main = _main_view(used)
    count = 1 if decides_one_class(problem) else len(classes)
    thresholds: dict[View, tuple[float, ...]] = {}
    examples = dict.fromkeys(View, 0)
    notes: list[str] = []
    for view, present in used.items():
        if rule.name in ("threshold", "abstain_below"):
            assert rule.value is not None
            thresholds[view] = (rule.value,) * count
            continue
        values, labels = scaled[view][present], all_labels[present]
        scores, outcomes = confidences(values, problem), outcomes_of(values, labels, problem)
        if rule.name == "f1":
            is_enough = len(labels) >= FEWEST_EXAMPLES
            found = _thresholds_of_f1(scores, outcomes) if is_enough else np.full(count, 0.5)
            examples[view] = len(labels) if is_enough else 0
        else:
            examples[view] = len(labels)
            names = classes if problem == "multi_label" else ()
            found, failures = _thresholds_of(rule, scores, outcomes, names)
            if failures and view is main:
                raise DataError(
                    f"{rule} cannot be met: {_because(failures)}",
                    fix="Lower the number, or add labelled examples to choose on",
                )
            if failures and len(labels):
                effect = "nothing is decided" if rule.name == "precision" else "all is decided"
                notes.append(f"on the {view} view it cannot be met, {effect}: {_because(failures)}")
        thresholds[view] = tuple(map(float, found))
    point = OperatingPoint(str(rule), thresholds, examples, {})
    if len(all_labels):
        expected = expected_of_views(scaled, all_labels, problem, point=point, rows=rows)
        point = replace(point, expected=expected)
    return Chosen(point, tuple(notes))


def point_of_run(
    config: DecisionConfig,
    logits: Mapping[View, LogitArray],
    data: PreparedData,
    *,
    temperatures: Temperatures,
) -> Chosen | None:
    """Choose the operating point of a run's model on its validation split, by the run's settings.

    Returns:
        None where the most probable class is always decided, and in multi-label tasks without
        enough labels to choose the default's thresholds.

    Raises:
        ConfigError: The settings are for another kind of problem.
        DataError: See `choose_point`.
    """
    problem, split = data.info.problem, data.splits["validation"]
    rule = rule_for(config, problem)
    is_default = config.rule is None
    if rule is None or (is_default and split.has_label().sum() < FEWEST_EXAMPLES):
        return None
    return choose_point(
        rule, logits, split, problem, classes=data.info.labels, temperatures=temperatures
    )


def state_decisions(
    facts: Json,
    data: PreparedData,
    split: str,
    logits: Mapping[View, LogitArray],
    *,
    temperatures: Temperatures,
    point: OperatingPoint | None,
) -> None:
    """Add what a model decides on a split at its operating point to its results.

    Args:
        facts: Gets operating_point, and under "decisions" and the split's name each view's
            `DecisionsJson`; nothing without a point, and no decisions of a split without labels.
        data: The data.
        split: Which split of it.
        logits: Per view [examples, classes].
        temperatures: The model's.
        point: Its operating point, if it has one.
    """
    rows, problem = data.splits[split], data.info.problem
    labelled = rows.has_label()
    if point is None:
        return
    facts["operating_point"] = point.as_json(problem)
    if not labelled.any():
        return
    scaled = temperatures.scaled(logits, rows)
    stated = facts.setdefault("decisions", {})
    assert isinstance(stated, dict)
    stated[split] = decisions_of_views(
        {view: values[labelled] for view, values in scaled.items()},
        rows.labels[labelled],
        problem,
        point=point,
        rows=modalities_of(rows, labelled),
        classes=data.info.labels,
    )


def teacher_point_of(metrics: Mapping[str, Any], info: DatasetInfo) -> OperatingPoint | None:
    """Return the operating point at which metrics.json of a run scores its teacher, if it has one.

    Args:
        metrics: Its content.
        info: The run's data set, in whose order of classes the thresholds are.

    Raises:
        ArtifactError: It is malformed.
    """
    facts = metrics.get("adapted_teacher", metrics.get("teacher", {}))
    stated = facts.get("operating_point")
    if stated is None:
        return None
    return point_from_json(stated, len(info.labels), info.problem, "metrics.json")


def _thresholds_of_f1(scores: _Values, outcomes: _Values) -> _Values:
    """Return the thresholds of the best F1 of each class, averaged with that of all classes.

    The mean is weighted by the class's true examples and 30: the fewer a class has, the more its
    own threshold follows chance (measured: docs/confidence.md).

    Args:
        scores: Probabilities [examples, classes].
        outcomes: Labels, 0 or 1.
    """
    shared = _threshold_of_f1(scores.ravel(), outcomes.ravel())
    own = np.array([_threshold_of_f1(s, y) for s, y in zip(scores.T, outcomes.T, strict=True)])
    positives = outcomes.sum(axis=0)
    return np.asarray(
        (positives * own + _POSITIVES_OF_SHARED * shared) / (positives + _POSITIVES_OF_SHARED)
    )


def _threshold_of_f1(scores: _Values, outcomes: _Values) -> float:
    """Return the threshold of the best F1 = 2 tp / (decided + true); .5 where none is true."""
    if not outcomes.any():
        return 0.5
    ordered, right, ends = _ranked(scores, outcomes)
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + outcomes.sum())
    return _below(ordered, int(np.where(ends, f1, -1).argmax()))


def _thresholds_of(
    rule: Rule, scores: _Values, outcomes: _Values, names: Sequence[str]
) -> tuple[_Values, dict[str, str]]:
    """Return thresholds that give a precision or recall, and why some do not.

    Args:
        rule: precision or recall.
        scores: Confidences [examples, columns].
        outcomes: Their outcomes, 0 to 1.
        names: Of the columns where they are classes.

    Returns:
        Thresholds [columns], and reasons by name, "" for the only column of other tasks.
    """
    assert rule.value is not None
    needed = examples_needed(rule.value)
    found: list[float] = []
    failures: dict[str, str] = {}
    for column, (each, right) in enumerate(zip(scores.T, outcomes.T, strict=True)):
        # The share of correct decisions is of all examples where one class is decided.
        true = float(right.sum()) if names else float(len(each))
        failure: str | None
        if true < needed:
            threshold = _NEVER if rule.name == "precision" else _ALWAYS
            of_class = " true" if names else ""
            failure = f"{int(true)}{of_class} examples of the {needed} that are needed"
        elif rule.name == "precision":
            threshold, failure = _threshold_of_precision(each, right, rule.value, needed)
        else:
            threshold, failure = _threshold_of_recall(each, right, rule.value * true)
        found.append(threshold)
        if failure is not None:
            failures[names[column] if names else ""] = failure
    return np.array(found), failures


def _because(failures: Mapping[str, str]) -> str:
    """Return the reasons of failures by class, or the only reason."""
    return failures[""] if "" in failures else _named(failures)


def _threshold_of_precision(
    scores: _Values, outcomes: _Values, precision: float, needed: int
) -> tuple[float, str | None]:
    """Return the lowest threshold with a precision; where there is none, 1 and the reason.

    The outcomes are first made to fall with the score (isotonic regression, Barlow & Brunk 1972):
    else the lowest threshold would be one that reaches the precision by chance.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    falling = isotonic_regression(outcomes[order], increasing=False).x
    counts = np.arange(1, len(scores) + 1)
    precisions = np.cumsum(falling) / counts
    is_step = np.append(falling[1:] < falling[:-1], True) & _is_end(ordered)
    usable = is_step & (counts >= needed)
    # Rounding of the regression must not refuse a share that is met exactly.
    reached = np.flatnonzero(usable & (precisions >= precision - 1e-9))
    if not len(reached):
        best = precisions[usable].max()
        return _NEVER, f"at most {best:.1%} right of the {needed} most confident or more"
    return _below(ordered, int(reached[-1])), None


def _threshold_of_recall(
    scores: _Values, outcomes: _Values, right: float
) -> tuple[float, str | None]:
    """Return the highest threshold above which so many are right; else 0 and the reason."""
    ordered, sums, ends = _ranked(scores, outcomes)
    reached = np.flatnonzero(ends & (sums >= right - 1e-9))
    if not len(reached):
        return _ALWAYS, f"only {outcomes.mean():.1%} of all examples are right"
    return _below(ordered, int(reached[0])), None


def _ranked(scores: _Values, outcomes: _Values) -> tuple[_Values, _Values, NDArray[np.bool_]]:
    """Return scores from high to low, sums of their outcomes, and where a threshold can follow."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return ordered, np.cumsum(outcomes[order]), _is_end(ordered)


def _is_end(ordered: _Values) -> NDArray[np.bool_]:
    """Return whether a lower score follows each, bool [examples]; one does after the last."""
    return np.append(ordered[1:] < ordered[:-1], True)


def _below(ordered: _Values, place: int) -> float:
    """Return the threshold between a score and the next lower one; 0 after the last."""
    if place + 1 == len(ordered):
        return _ALWAYS
    return float(ordered[place] + ordered[place + 1]) / 2


def _named(reasons: Mapping[str, str]) -> str:
    """Return names with their reasons, at most 5."""
    first = list(reasons.items())[:_MOST_NAMED]
    listed = ", ".join(f"{shortened(name)} ({reason})" for name, reason in first)
    return listed + (", ..." if len(reasons) > _MOST_NAMED else "")
