"""Calibration error, Brier score and reliability: by hand, against scikit-learn, and limits."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from msd_deploy.confidence import calibration_error, confidence_as_json, confidences

ROWS = 3000


def binary(scale: float, rows: int = ROWS) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return logits of two classes that are `scale` times those that the labels were drawn from."""
    generator = np.random.default_rng(7)
    logits = (2 * generator.normal(size=(rows, 2))).astype(np.float32)
    is_second = generator.random(rows) < expit(logits[:, 1] - logits[:, 0])
    return logits * scale, is_second.astype(np.int64)


def expected_calibration_error(confidence: NDArray[Any], outcome: NDArray[Any]) -> float:
    """Compute the error with a loop over 15 parts of the examples in order of confidence."""
    order = np.argsort(confidence)
    parts = np.array_split(order, 15)
    gaps = [abs(confidence[part].mean() - outcome[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(order))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_error_is_that_of_15_bins_of_equally_many_examples(scale: float) -> None:
    logits, labels = binary(scale)
    confidence = confidences(logits, "single_label")[:, 0]
    by_hand = expected_calibration_error(confidence, logits.argmax(axis=1) == labels)
    found = calibration_error(logits, labels, "single_label")
    assert found["value"] == pytest.approx(by_hand, abs=1e-3)
    assert found == confidence_as_json(logits, labels, "single_label")["ece"]


def test_right_probabilities_have_the_error_of_chance_and_others_a_higher_one() -> None:
    right = confidence_as_json(*binary(1.0), "single_label")
    sharper = confidence_as_json(*binary(3.0), "single_label")
    assert right["ece_by_chance"] is not None
    low, high = right["ece"]["interval"]
    assert low <= right["ece_by_chance"] <= high
    assert sharper["ece"]["interval"][0] > 2 * (sharper["ece_by_chance"] or 1)
    assert sharper["gap"]["interval"][0] > 0.05  # overconfident
    assert right["gap"]["interval"][0] < 0 < right["gap"]["interval"][1]
    assert sharper["gap"]["value"] == pytest.approx(
        sharper["confidence"] - sharper["outcome"], abs=2e-6
    )


def test_the_interval_of_the_error_holds_that_of_other_examples() -> None:
    """Of 200 samples of 1,000 examples, the intervals of 95 % include the mean error of all."""
    logits, labels = binary(1.3, 200_000)
    parts = [
        calibration_error(*part, "single_label")
        for part in zip(np.split(logits, 200), np.split(labels, 200), strict=True)
    ]
    mean = np.mean([part["value"] for part in parts])
    inside = [part["interval"][0] <= mean <= part["interval"][1] for part in parts]
    assert 0.88 <= np.mean(inside) < 1


def test_the_error_by_chance_is_that_of_outcomes_drawn_from_the_probabilities() -> None:
    logits, _ = binary(1.0)
    stated = confidence_as_json(logits, np.zeros(ROWS, np.int64), "single_label")["ece_by_chance"]
    generator, confidence = np.random.default_rng(9), confidences(logits, "single_label")[:, 0]
    decided = logits.argmax(axis=1)
    drawn = []
    for _ in range(100):
        is_right = generator.random(ROWS) < confidence
        labels = np.where(is_right, decided, 1 - decided)
        drawn.append(calibration_error(logits, labels, "single_label")["value"])
    assert stated == pytest.approx(np.mean(drawn), rel=0.05)


def test_examples_of_one_confidence_are_one_bin() -> None:
    logits = np.tile(np.array([[logit(0.75), 0.0]], np.float32), (100, 1))
    labels = (np.arange(100) >= 60).astype(np.int64)  # .6 are of the first class
    found = confidence_as_json(logits, labels, "single_label")
    assert found["reliability"] == [{"decisions": 100, "confidence": 0.75, "outcome": 0.6}]
    assert found["ece"]["value"] == pytest.approx(0.15)


def test_the_brier_score_is_scikit_learns() -> None:
    logits, labels = binary(1.5)
    probability = expit(logits[:, 1] - logits[:, 0])
    found = confidence_as_json(logits, labels, "single_label")["brier"]
    assert found["value"] == pytest.approx(2 * brier_score_loss(labels, probability), abs=1e-6)
    truth = np.stack([1 - labels, labels], axis=1).astype(np.float32)
    independent = confidence_as_json(logits, truth, "multi_label")["brier"]
    by_class = [brier_score_loss(truth[:, c], expit(logits[:, c])) for c in range(2)]
    assert independent["value"] == pytest.approx(np.mean(by_class), abs=1e-6)


def test_every_class_of_a_multi_label_example_is_a_decision() -> None:
    logits = np.array([[2.0, -2.0, 0.5]], np.float32).repeat(10, axis=0)
    labels = np.array([[1, 0, 1]], np.float32).repeat(10, axis=0)
    found = confidence_as_json(logits, labels, "multi_label")
    assert sum(each["decisions"] for each in found["reliability"]) == 30
    assert found["confidence"] == pytest.approx(float(expit(logits[0]).mean()), abs=1e-6)
    assert found["outcome"] == pytest.approx(2 / 3, abs=1e-6)
    assert confidences(logits, "multi_label")[0] == pytest.approx(expit(logits[0]))


def test_the_outcome_of_a_soft_label_is_the_score_of_the_answer() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 1.0]], np.float32)
    labels = np.array([[1 / 3, 1.0], [0.0, 1.0]], np.float32)
    found = confidence_as_json(logits, labels, "soft_label")
    assert found["outcome"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["confidence"] == pytest.approx(float(expit([3.0, 1.0]).mean()), abs=1e-6)
    assert found["ece_by_chance"] is None  # outcomes of 1/3 are not drawn with a probability
