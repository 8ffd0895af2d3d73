"""Metrics of logits, against pairs counted one by one and numbers by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msd_deploy.metrics import Score, agreement, decisions, score_extra_metrics, score_logits
from msd_deploy.problem import ExtraMetric
from msd_deploy.views import View


def test_accuracy_is_the_share_of_right_rows() -> None:
    logits = np.array([[1, 0], [0, 1], [3, 2], [2, 3]], np.float32)
    score = score_logits(logits, np.array([0, 1, 1, 1]), "single_label")
    assert score.value == 0.75
    assert score.examples == 4


def test_micro_f1_is_that_of_the_pooled_counts() -> None:
    logits = np.array([[2, -1, 3], [-1, -2, 0.5], [1, 1, -1]], np.float32)
    labels = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], np.float32)
    # tp 3, fp 2, fn 1
    assert score_logits(logits, labels, "multi_label").value == pytest.approx(6 / 9)


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    logits, labels = np.full((3, 2), -1, np.float32), np.zeros((3, 2), np.float32)
    assert score_logits(logits, labels, "multi_label").value == 1.0


def test_the_interval_of_an_accuracy_is_the_binomials() -> None:
    rows, share = 2000, 0.9
    labels = np.zeros(rows, np.int64)
    logits = np.zeros((rows, 2), np.float32)
    logits[int(rows * share) :, 1] = 1
    score = score_logits(logits, labels, "single_label")
    half_width = 1.96 * np.sqrt(share * (1 - share) / rows)
    assert score.low == pytest.approx(share - half_width, abs=0.003)
    assert score.high == pytest.approx(share + half_width, abs=0.003)


def test_agreement_counts_equal_decisions() -> None:
    first = np.array([[1, 0], [0, 1]], np.float32)
    second = np.array([[5, 0], [1, 0]], np.float32)
    assert agreement(first, second, "single_label") == 0.5
    assert agreement(first, second - 0.5, "multi_label") == 0.5


def test_a_class_is_decided_from_probability_one_half_on() -> None:
    assert decisions(np.array([[0.0, -0.1]], np.float32), "multi_label").tolist() == [[1, 0]]


@pytest.mark.parametrize("is_right", [True, False])
def test_rows_that_are_all_right_or_all_wrong_have_an_interval_by_their_number(
    is_right: bool,
) -> None:
    """Clopper and Pearson's bound: 1 - .025^(1/n), so 97.5 % for one row, 3.6 % for 100."""
    for rows, bound in ((1, 0.975), (100, 0.0362)):
        logits = np.tile(np.array([[1.0, 0.0]], np.float32), (rows, 1))
        labels = np.full(rows, 0 if is_right else 1)
        score = score_logits(logits, labels, "single_label")
        low, high = (1 - bound, 1.0) if is_right else (0.0, bound)
        assert (score.low, score.high) == (
            pytest.approx(low, abs=1e-4),
            pytest.approx(high, abs=1e-4),
        )


def score(
    logits: NDArray[np.float32],
    labels: NDArray[np.int64] | NDArray[np.float32],
    name: ExtraMetric,
) -> Score:
    return score_extra_metrics({View.IMAGE: logits}, labels, (name,))[name][View.IMAGE]


def two_logits(differences: list[float]) -> NDArray[np.float32]:
    return np.stack([np.zeros(len(differences)), differences], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("differences", "labels", "value"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([-1, 1, -1, 1], [0, 1, 0, 1], 1.0),
        ([1, -1, 1, -1], [0, 1, 0, 1], 0.0),
        ([2, 2, 2, 2], [0, 1, 0, 1], 0.5),
        ([1, 1, 0], [1, 0, 0], 0.75),
        ([3, 1], [1, 1], 0.5),
    ],
    ids=["one pair of four wrong", "sorted", "reversed", "all alike", "one tie", "one class"],
)
def test_auroc_is_the_share_of_pairs_in_order(
    differences: list[float], labels: list[int], value: float
) -> None:
    assert score(two_logits(differences), np.array(labels), "auroc").value == value


def test_auroc_of_many_ties_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = np.round(generator.normal(labels, 1.0), 1)
    above, below = scores[labels == 1][:, None], scores[labels == 0][None]
    by_pairs = ((above > below) + 0.5 * (above == below)).mean()
    result = score(two_logits(scores.tolist()), labels, "auroc")
    assert result.value == pytest.approx(by_pairs, abs=1e-12)
    assert result.low < result.value < result.high
    # Hanley & McNeil's standard error of an area of 0.76 with 100 rows of each class is 0.034.
    assert 0.10 < result.high - result.low < 0.17


# tp, fp, fn: 2 1 0, 1 0 1, 0 0 0, 0 1 1: F1 of 0.8, 2/3, 0 and 0; 2, 2, 0 and 1 rows have them.
LOGITS = np.array([[1, 1, -1, -1], [1, -1, -1, 1], [1, -1, -1, -1]], np.float32)
TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]], np.float32)


@pytest.mark.parametrize(
    ("name", "value"),
    [("macro_f1", (0.8 + 2 / 3) / 4), ("weighted_f1", (2 * 0.8 + 2 * 2 / 3) / 5)],
)
def test_mean_f1_is_that_of_the_classes(name: ExtraMetric, value: float) -> None:
    result = score(LOGITS, TRUTH, name)
    assert result.value == pytest.approx(value, abs=1e-12)
    assert result.examples == 3


def test_alike_classes_give_all_f1s_one_value_and_interval() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(generator.integers(0, 2, (150, 1)), 3, axis=1).astype(np.float32)
    logits = (truth - 0.5 + generator.normal(0, 0.6, (150, 1))).astype(np.float32)
    micro = score_logits(logits, truth, "multi_label")
    for name in ("macro_f1", "weighted_f1"):
        result = score(logits, truth, name)
        assert (result.value, result.low, result.high) == pytest.approx(
            (micro.value, micro.low, micro.high), abs=1e-12
        )


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_rows() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    logits = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 1, 2, 3]]
    result = score(logits, labels, "balanced_accuracy")
    assert result.value == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert result.low <= result.value <= result.high


def test_a_constant_answer_has_a_balanced_accuracy_of_one_over_the_classes() -> None:
    labels = np.array([0] * 97 + [1] * 3)
    logits = np.tile(np.float32([1, 0]), (100, 1))
    assert score(logits, labels, "balanced_accuracy").value == 0.5
    assert score_logits(logits, labels, "single_label").value == 0.97
