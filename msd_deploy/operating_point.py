"""The operating point of a model: which classes it decides at which probabilities, or abstains.

Part of labels.json, for apps to obey. Where one class is decided, there is a threshold per view,
`abstain_below`: with a lower probability of its class the model abstains. In multi-label tasks
there is one per view and class: a class is decided where its probability reaches it. Chosen in
`run.operating_points`. Free of torch and scipy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from msd_deploy.artifacts.manifest import RESTORE, Json, is_number
from msd_deploy.confidence import confidences
from msd_deploy.config.decisions import settings_of
from msd_deploy.errors import ArtifactError, ConfigError
from msd_deploy.metrics import LogitArray, LogitsByView, decisions
from msd_deploy.pages.formatting import Interval
from msd_deploy.problem import Problem, decides_one_class
from msd_deploy.temperatures import Modalities, Temperatures, views_of_rows
from msd_deploy.views import View

_NAMES = [view.value for view in View]
_Values = NDArray[np.float64]


class Expected(TypedDict):
    """Precision, recall and share of abstentions on the examples that a point was chosen on.

    Where one class is decided, precision is the share of correct decisions, and recall that of
    examples that are decided correctly (soft labels: their scores). In multi-label tasks both count
    decided and true classes, and an abstention is an example without a class. precision is None
    where nothing is decided, recall where no class is true.
    """

    precision: Interval | None
    recall: Interval | None
    abstained: Interval


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds of a model's probabilities.

    Attributes:
        rule: How they were chosen: "f1", "precision=0.95", "recall=0.9", "threshold=0.4" or
            "abstain_below=0.8".
        thresholds: By view one for each class, or the only one where one class is decided; 0 to 1.
            At 1 nothing is decided, not even with a probability that rounds to 1.
        examples: By view, how many examples they were chosen on; 0: they were given.
        expected: By view what they give on these; empty where none has a label.
    """

    rule: str
    thresholds: Mapping[View, tuple[float, ...]]
    examples: Mapping[View, int]
    expected: Mapping[View, Expected]

    def as_json(self, problem: Problem) -> Json:
        """Return the entry operating_point of labels.json."""
        if decides_one_class(problem):
            stated: Json = {"abstain_below": {v.value: self.thresholds[v][0] for v in View}}
        else:
            stated = {"thresholds": {v.value: list(self.thresholds[v]) for v in View}}
        return {
            "rule": self.rule,
            **stated,
            "examples": {view.value: self.examples[view] for view in View},
            "expected": self.expected_by_name(),
        }

    def expected_by_name(self) -> dict[str, Expected]:
        """Return what is expected by the views' names."""
        return {view.value: values for view, values in self.expected.items()}

    def in_order(self, order: Sequence[int]) -> "OperatingPoint":
        """Return it for logits in another order of classes.

        Args:
            order: The places of those classes among the model's.
        """
        if all(len(values) == 1 for values in self.thresholds.values()):
            return self
        by_view = {v: tuple(values[i] for i in order) for v, values in self.thresholds.items()}
        return replace(self, thresholds=by_view)

    def of_rows(self, view: View, rows: Modalities) -> _Values:
        """Return the thresholds of each row, [rows, classes or 1], by the modalities it has.

        Args:
            view: What the model gets of these modalities.
            rows: The examples.
        """
        has_image, has_text = rows.has_image() & view.has_image, rows.has_text() & view.has_text
        by_view = np.array([self.thresholds[each] for each in View], np.float64)
        return np.asarray(by_view[views_of_rows(has_image, has_text)], np.float64)

    def decides(
        self, scaled: LogitArray, view: View, rows: Modalities, problem: Problem
    ) -> NDArray[np.bool_]:
        """Return which thresholds are reached, bool [rows, classes or 1].

        Of each class in a multi-label task; else whether the most probable class is decided. A row
        without any is an abstention.

        Args:
            scaled: Logits of a view over their temperatures, [rows, classes].
            view: The view.
            rows: The examples.
            problem: Kind of the task.
        """
        if not decides_one_class(problem):
            return self.shifted({view: scaled}, rows)[view] >= 0
        thresholds = self.of_rows(view, rows)
        return (confidences(scaled, problem) >= thresholds) & (thresholds < 1)

    def shifted(self, scaled: Mapping[View, LogitArray], rows: Modalities) -> LogitsByView:
        """Return logits of a multi-label task that are 0 or more where a class is decided.

        The probability of a class reaches its threshold t where its logit reaches log(t / (1 - t)),
        which is subtracted: `metrics.decisions` and all that depends on it then obey the
        thresholds.

        Args:
            scaled: Logits over their temperatures, per view [rows, classes].
            rows: The examples.
        """
        shifted = {}
        for view, values in scaled.items():
            thresholds = self.of_rows(view, rows)
            with np.errstate(divide="ignore"):  # of 0 and 1: all or no logits are above
                limits = np.log(thresholds) - np.log1p(-thresholds)
            shifted[view] = (values - limits).astype(np.float32)
        return shifted


def decided_classes(
    scaled: LogitArray,
    view: View,
    rows: Modalities,
    problem: Problem,
    point: OperatingPoint | None,
) -> NDArray[np.bool_]:
    """Return which classes are decided, bool [rows, classes]; none of a row is an abstention.

    Args:
        scaled: Logits of a view over their temperatures, [rows, classes].
        view: The view.
        rows: The examples.
        problem: Kind of the task.
        point: The operating point; None: the most probable class, or each with a probability of .5.
    """
    chosen = decisions(scaled, problem)
    classes = chosen > 0
    if decides_one_class(problem):
        classes = np.arange(scaled.shape[1]) == chosen[:, None]
    if point is None:
        return classes
    reached = point.decides(scaled, view, rows, problem)
    return classes & reached if decides_one_class(problem) else reached


def deciding_logits(
    logits: Mapping[View, LogitArray],
    rows: Modalities,
    problem: Problem,
    *,
    temperatures: Temperatures,
    point: OperatingPoint | None,
) -> LogitsByView:
    """Return logits by which `metrics` scores what a model decides at its operating point.

    Args:
        logits: Per view [rows, classes].
        rows: The examples.
        problem: Kind of the task; where one class is decided it is the most probable one at any
            point, and logits stay as they are.
        temperatures: The model's.
        point: Its operating point; None: classes with a calibrated probability of .5 are decided.
    """
    if decides_one_class(problem):
        return dict(logits)
    scaled = temperatures.scaled(logits, rows)
    return scaled if point is None else point.shifted(scaled, rows)


def point_from_json(
    stated: object, classes: int, problem: Problem, where: object
) -> OperatingPoint:
    """Return an operating point that a file states.

    Args:
        stated: Its entry operating_point.
        classes: Number of classes of the model.
        problem: Kind of its task.
        where: The file, for errors.

    Raises:
        ArtifactError: It is malformed, or a threshold is not a number from 0 to 1.
    """
    key = "abstain_below" if decides_one_class(problem) else "thresholds"
    count = 1 if decides_one_class(problem) else classes
    entry = stated if isinstance(stated, dict) else {}
    rule, by_view, examples = entry.get("rule"), entry.get(key), entry.get("examples")
    expected = entry.get("expected")
    if not (
        isinstance(rule, str)
        and isinstance(by_view, dict)
        and isinstance(examples, dict)
        and isinstance(expected, dict)
        and sorted(by_view) == sorted(examples) == sorted(_NAMES)
        and all(type(number) is int and number >= 0 for number in examples.values())
        and all(_is_expected(expected[name]) for name in expected)
        and set(expected) <= set(_NAMES)
    ):
        raise ArtifactError(
            f"has an operating point without rule, {key}, examples and expected of"
            f" {', '.join(_NAMES)}",
            where=where,
            fix=RESTORE,
        )
    try:
        settings_of(rule)
    except ConfigError as error:
        raise ArtifactError(
            f"has the unknown rule {rule!r} of an operating point", where=where, fix=RESTORE
        ) from error
    thresholds = {}
    for view in View:
        value = by_view[view.value]
        values = value if isinstance(value, list) and count == len(value) else [value]
        if len(values) != count or not all(is_number(v) and 0 <= v <= 1 for v in values):
            raise ArtifactError(
                f"has {key} of the {view} view that are not {count} numbers from 0 to 1",
                where=where,
                fix=RESTORE,
            )
        thresholds[view] = tuple(map(float, values))
    return OperatingPoint(
        rule,
        thresholds,
        {view: examples[view.value] for view in View},
        {View(name): cast(Expected, values) for name, values in expected.items()},
    )


def _is_expected(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(Expected.__annotations__)
        and all(each is None or _is_interval(each) for each in value.values())
        and value["abstained"] is not None
    )


def _is_interval(value: object) -> bool:
    ends = value.get("interval") if isinstance(value, dict) else None
    return (
        isinstance(value, dict)
        and is_number(value.get("value"))
        and isinstance(ends, list)
        and len(ends) == 2
        and all(map(is_number, ends))
    )
