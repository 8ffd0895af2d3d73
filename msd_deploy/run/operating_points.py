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
from msd_deploy.temperatures import Temperatures, modalities_of
from msd_deploy.views import View

_Values = NDArray[np.float64]

_RISK = 0.05
_POSITIVES_OF_SHARED = 30
"""How many true examples the shared threshold weighs as much as, for each class. Thresholds of
single classes follow chance: on posters (500 validation examples) they lose .3 points of micro F1
where this gains as much."""
_NEVER, _ALWAYS = 1.0, 0.0
_MOST_NAMED = 5
_DIGITS = 6


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
    labelled = split.has_label()
    if rule.name not in ("precision", "recall"):
        return
    assert rule.value is not None
    needed = examples_needed(rule.value)
    if problem == "multi_label":
        positives = (split.labels[labelled] > 0).sum(axis=0)
        few = {name: int(n) for name, n in zip(classes, positives, strict=True) if n < needed}
        if few:
            raise DataError(
                f"the validation split cannot support {rule}: each class needs {needed} true"
                f" examples, and {_named(few)} has fewer",
                fix="Add labelled validation examples, lower the number, or use --decide f1",
            )
    elif labelled.sum() < needed:
        raise DataError(
            f"the validation split cannot support {rule}: it has {int(labelled.sum())} labelled"
            f" examples, and {needed} are needed",
            fix="Add labelled validation examples, or lower the number",
        )


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
    (precision), or always does (recall).

    Args:
        rule: One for this kind of problem; see `rule_for`.
        logits: Of the validation split, [examples, classes] for all three views.
        split: Examples that the model was not trained on; those with a label are used.
        problem: Kind of the task.
        classes: Names of the classes.
        temperatures: The model's.

    Raises:
        DataError: The examples with both modalities do not support the rule; says what is needed.
    """
    check_support(rule, split, problem, classes)
    labelled = split.has_label()
    rows, all_labels = modalities_of(split, labelled), split.labels[labelled]
    scaled = temperatures.scaled({v: values[labelled] for v, values in logits.items()}, rows)
    has_image, has_text = rows.has_image(), rows.has_text()
    used = {View.MULTIMODAL: has_image & has_text, View.IMAGE: has_image, View.TEXT: has_text}
    count = 1 if decides_one_class(problem) else len(classes)
    thresholds: dict[View, tuple[float, ...]] = {}
    examples: dict[View, int] = {}
    notes: list[str] = []
    for view, present in used.items():
        if rule.name in ("threshold", "abstain_below"):
            assert rule.value is not None
            found, examples[view] = np.full(count, rule.value), 0
        else:
            examples[view] = int(present.sum())
            values, labels = scaled[view][present], all_labels[present]
            scores, outcomes = confidences(values, problem), outcomes_of(values, labels, problem)
            if rule.name == "f1":
                is_enough = examples[view] >= FEWEST_EXAMPLES
                found = _thresholds_of_f1(scores, outcomes) if is_enough else np.full(count, 0.5)
            else:
                names = classes if problem == "multi_label" else ()
                found, failures = _thresholds_of(rule, scores, outcomes, names)
                if failures and view is View.MULTIMODAL:
                    raise DataError(
                        f"the validation split does not support {rule}: {'; '.join(failures)}",
                        fix="Lower the number, or add labelled validation examples",
                    )
                effect = "decides nothing then" if rule.name == "precision" else "decides all then"
                notes += [f"on the {view} view {failure}; it {effect}" for failure in failures]
        thresholds[view] = tuple(round(float(value), _DIGITS) for value in found)
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
    stated = metrics.get("adapted_teacher", metrics["teacher"]).get("operating_point")
    if stated is None:
        return None
    return point_from_json(stated, len(info.labels), info.problem, "metrics.json")


def _thresholds_of_f1(scores: _Values, outcomes: _Values) -> _Values:
    """Return the thresholds of the best F1 of each class, drawn to that of all classes.

    As a mean weighted by the class's true examples and 30: the fewer a class has, the more its own
    threshold follows chance (measured: docs/confidence.md).

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
) -> tuple[_Values, list[str]]:
    """Return thresholds that give a precision or recall, and why some do not.

    Args:
        rule: precision or recall.
        scores: Confidences [examples, columns].
        outcomes: Their outcomes, 0 to 1.
        names: Of the columns where they are classes.
    """
    assert rule.value is not None
    needed, found, failures = examples_needed(rule.value), [], {}
    for column, (each, right) in enumerate(zip(scores.T, outcomes.T, strict=True)):
        if rule.name == "precision":
            threshold, best = _threshold_of_precision(each, right, rule.value, needed)
        else:
            # The share of correct decisions is of all examples where one class is decided.
            true = right.sum() if names else float(len(each))
            threshold, best = _threshold_of_recall(each, right, rule.value * true)
        found.append(threshold)
        if best is not None:
            failures[names[column] if names else ""] = best
    if not failures:
        return np.array(found), []
    best = max(failures.values())
    what = f"no threshold meets it for {_named(failures)}" if names else "no threshold meets it"
    if rule.name == "precision":
        return np.array(found), [
            f"{what}: of the {needed} or more most confident examples at most {best:.1%} are right"
        ]
    return np.array(found), [f"{what}: {best:.1%} of all examples are right"]


def _threshold_of_precision(
    scores: _Values, outcomes: _Values, precision: float, needed: int
) -> tuple[float, float | None]:
    """Return the lowest threshold with a precision; where there is none, 1 and the best precision.

    The outcomes are first made to fall with the score (isotonic regression, Barlow & Brunk 1972):
    else the lowest threshold would be one that reaches the precision by chance.
    """
    if len(scores) < needed:
        return _NEVER, 0.0
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
        return _NEVER, float(precisions[usable].max())
    return _below(ordered, int(reached[-1])), None


def _threshold_of_recall(
    scores: _Values, outcomes: _Values, right: float
) -> tuple[float, float | None]:
    """Return the highest threshold above which so many are right; else 0 and the share of all."""
    ordered, sums, ends = _ranked(scores, outcomes)
    reached = np.flatnonzero(ends & (sums >= right - 1e-9))
    if not len(reached):
        return _ALWAYS, float(outcomes.mean())
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


def _named(counts: Mapping[str, float]) -> str:
    """Return names with their counts, the smallest first, at most 5."""
    first = sorted(counts.items(), key=lambda item: item[1])[:_MOST_NAMED]
    listed = ", ".join(
        f"{shortened(name)} ({n:,})" if isinstance(n, int) else shortened(name) for name, n in first
    )
    return listed + (", ..." if len(counts) > _MOST_NAMED else "")
