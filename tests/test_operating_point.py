"""Operating points: what they decide, their file, and precision, recall and abstentions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from msd_deploy.decision_quality import decisions_of_views
from msd_deploy.errors import ArtifactError
from msd_deploy.metrics import LogitArray, decisions, probabilities
from msd_deploy.operating_point import (
    OperatingPoint,
    decided_classes,
    deciding_logits,
    point_from_json,
)
from msd_deploy.problem import Problem
from msd_deploy.temperatures import RowModalities, Temperatures
from msd_deploy.views import View

BOTH = RowModalities(np.array([True] * 4), np.array([True] * 4))
NOT_CHOSEN = dict.fromkeys(View, 0)


def point(*thresholds: float, image: tuple[float, ...] | None = None) -> OperatingPoint:
    """Return an operating point with equal thresholds of all views but the image's."""
    by_view = dict.fromkeys(View, thresholds) | ({View.IMAGE: image} if image else {})
    return OperatingPoint("threshold=0.5", by_view, NOT_CHOSEN, {})


def logits_of(probability: list[list[float]], problem: Problem) -> LogitArray:
    """Return logits with these probabilities."""
    p = np.array(probability)
    return (np.log(p / (1 - p)) if problem == "multi_label" else np.log(p)).astype(np.float32)


def decided(
    logits: LogitArray, problem: Problem, at: OperatingPoint | None, view: View = View.MULTIMODAL
) -> list[list[bool]]:
    rows = RowModalities(BOTH.image[: len(logits)], BOTH.text[: len(logits)])
    found: list[list[bool]] = decided_classes(logits, view, rows, problem, at).tolist()
    return found


def test_a_class_is_decided_where_its_probability_reaches_its_threshold() -> None:
    logits = logits_of([[0.2, 0.9], [0.31, 0.85]], "multi_label")
    assert decided(logits, "multi_label", point(0.3, 0.88)) == [[False, True], [True, False]]
    assert decided(logits, "multi_label", None) == [[False, True], [False, True]]


def test_one_class_is_decided_where_its_probability_is_high_enough() -> None:
    logits = logits_of([[0.2, 0.8], [0.4, 0.6]], "single_label")
    assert decided(logits, "single_label", point(0.7)) == [[False, True], [False, False]]
    assert decided(logits, "single_label", None) == [[False, True], [False, True]]


def test_each_view_has_thresholds_of_its_own() -> None:
    logits = logits_of([[0.2, 0.8]], "single_label")
    at = point(0.7, image=(0.9,))
    assert decided(logits, "single_label", at, View.TEXT) == [[False, True]]
    assert decided(logits, "single_label", at, View.IMAGE) == [[False, False]]


def test_a_row_without_a_text_has_the_thresholds_of_an_image() -> None:
    logits = logits_of([[0.2, 0.8]] * 2, "single_label")
    rows = RowModalities(np.array([True, True]), np.array([True, False]))
    at = point(0.7, image=(0.9,))
    found = decided_classes(logits, View.MULTIMODAL, rows, "single_label", at)
    assert found.any(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_at_0_everything_is_decided_and_at_1_nothing(problem: Problem) -> None:
    logits = np.array([[60.0, -60.0], [-60.0, 60.0]], np.float32)  # probabilities round to 0 and 1
    count = 2 if problem == "multi_label" else 1
    assert all(any(row) for row in decided(logits, problem, point(*[0.0] * count)))
    assert not any(any(row) for row in decided(logits, problem, point(*[1.0] * count)))


def test_deciding_logits_are_positive_exactly_where_a_class_is_decided() -> None:
    generator = np.random.default_rng(5)
    logits = {view: (3 * generator.normal(size=(4, 3))).astype(np.float32) for view in View}
    at = point(0.2, 0.5, 0.8, image=(0.9, 0.1, 0.5))
    temperatures = Temperatures(dict(zip(View, (2.0, 0.5, 3.0), strict=True)), NOT_CHOSEN)
    shifted = deciding_logits(logits, BOTH, "multi_label", temperatures=temperatures, point=at)
    for view, values in logits.items():
        found = probabilities(values / temperatures.by_view[view], "multi_label")
        expected = found >= np.array(at.thresholds[view])
        assert (decisions(shifted[view], "multi_label") == expected).all()
    halves = deciding_logits(logits, BOTH, "multi_label", temperatures=temperatures, point=None)
    scaled = temperatures.scaled(logits, BOTH)
    assert all(np.array_equal(halves[view], scaled[view]) for view in View)
    single = deciding_logits(logits, BOTH, "single_label", temperatures=temperatures, point=at)
    assert single == logits  # the most probable class at any point


def test_thresholds_follow_the_order_of_the_classes() -> None:
    assert point(0.1, 0.2, 0.3).in_order([2, 0, 1]).thresholds[View.TEXT] == (0.3, 0.1, 0.2)
    assert point(0.1).in_order([1, 0]).thresholds[View.TEXT] == (0.1,)


def test_precision_recall_and_abstentions_of_one_class() -> None:
    logits = logits_of([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.45, 0.55]], "single_label")
    measured = decisions_of_views(
        {View.MULTIMODAL: logits},
        np.array([1, 0, 0, 1]),
        "single_label",
        point=point(0.7),
        rows=BOTH,
        classes=("a", "b"),
    )["multimodal"]
    assert measured["precision"] is not None
    assert measured["precision"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert measured["recall"] is not None
    assert measured["recall"]["value"] == 0.5  # of all four
    assert measured["abstained"]["value"] == 0.25
    assert measured["by_class"] == {}


def test_precision_and_recall_of_every_class() -> None:
    logits = logits_of([[0.9, 0.1], [0.9, 0.6], [0.1, 0.1], [0.1, 0.1]], "multi_label")
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    measured = decisions_of_views(
        {View.MULTIMODAL: logits},
        labels,
        "multi_label",
        point=point(0.5, 0.5),
        rows=BOTH,
        classes=("a", "b"),
    )["multimodal"]
    shares = {
        name: [values[key]["value"] for key in ("precision", "recall")]  # type: ignore[literal-required]
        for name, values in measured["by_class"].items()
    }
    assert shares == {"a": [0.5, 0.5], "b": [1.0, 1.0]}
    assert measured["precision"] is not None
    assert measured["precision"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert measured["abstained"]["value"] == 0.5


def test_nothing_decided_has_no_precision() -> None:
    measured = decisions_of_views(
        {View.MULTIMODAL: logits_of([[0.4, 0.6]] * 4, "single_label")},
        np.zeros(4, np.int64),
        "single_label",
        point=point(1.0),
        rows=BOTH,
        classes=("a", "b"),
    )["multimodal"]
    assert measured["precision"] is None
    # Of four examples none is decided: the exact bound at 2.5 %.
    assert measured["recall"] == {"value": 0.0, "interval": [0.0, round(1 - 0.025**0.25, 6)]}
    assert measured["abstained"] == {"value": 1.0, "interval": [round(0.025**0.25, 6), 1.0]}
    assert measured["examples"] == 4


SHARE = {"value": 0.5, "interval": [0.4, 0.6]}
EXPECTED: Any = {"precision": SHARE, "recall": None, "abstained": SHARE}


def chosen() -> OperatingPoint:
    return OperatingPoint(
        "precision=0.9",
        dict(zip(View, ((0.5, 0.25), (0.0, 1.0), (0.125, 0.5)), strict=True)),
        dict.fromkeys(View, 100),
        {View.MULTIMODAL: EXPECTED},
    )


def test_an_operating_point_is_read_as_it_was_written() -> None:
    assert point_from_json(chosen().as_json("multi_label"), 2, "multi_label", "here") == chosen()
    single = point(0.7, image=(0.9,))
    assert point_from_json(single.as_json("single_label"), 2, "single_label", "x") == single


@pytest.mark.parametrize(
    "change",
    [
        lambda stated: stated.pop("rule"),
        lambda stated: stated.update(rule="luck"),
        lambda stated: stated.pop("thresholds"),
        lambda stated: stated["thresholds"].pop("text"),
        lambda stated: stated["thresholds"].update(text=[0.5]),
        lambda stated: stated["thresholds"].update(text=[0.5, 1.5]),
        lambda stated: stated["thresholds"].update(text=[0.5, -0.1]),
        lambda stated: stated["thresholds"].update(text=[0.5, "1"]),
        lambda stated: stated["thresholds"].update(text=[0.5, True]),
        lambda stated: stated["thresholds"].update(text=0.5),
        lambda stated: stated["examples"].update(text=-1),
        lambda stated: stated.pop("expected"),
        lambda stated: stated["expected"].update(sound=EXPECTED),
        lambda stated: stated["expected"].update(text={"precision": SHARE}),
        lambda stated: stated["expected"].update(text=EXPECTED | {"abstained": None}),
        lambda stated: stated["expected"].update(text=EXPECTED | {"recall": 0.5}),
    ],
)
def test_a_malformed_operating_point_is_refused(change: Callable[[Any], object]) -> None:
    stated = chosen().as_json("multi_label")
    change(stated)
    with pytest.raises(
        ArtifactError, match=r"has (an operating point without|thresholds of|the unknown rule)"
    ):
        point_from_json(stated, 2, "multi_label", "labels.json")
