"""Metrics of logits, against scikit-learn, their intervals against scipy, and limits by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    recall_score,
    roc_auc_score,
)

from msd_deploy.metrics import Score, agreement, decisions, score_extra_metrics, score_logits
from msd_deploy.problem import ExtraMetric
from msd_deploy.views import View


def test_accuracy_is_the_share_of_right_rows() -> None:
    logits = np.array([[1, 0], [0, 1], [3, 2], [2, 3]], np.float32)
    score = score_logits(logits, np.array([0, 1, 1, 1]), "single_label")
    assert score.value == 0.75
    assert score.examples == 4


def test_no_true_and_no_predicted_class_scores_1() -> None:
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


# Scikit-learn and we sum the same counts in other orders of floating point.
ROUNDING = 1e-12
SEEDS = range(12)


def one_class_a_row(seed: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw logits with many ties, and labels; some classes have no row, or are never decided."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(classes, 0.5))
    labels = generator.choice(classes, int(generator.integers(5, 80)), p=shares)
    logits = np.round(generator.normal(0, 1, (len(labels), classes)), 1)
    logits[np.arange(len(labels)), labels] += 0.8
    return logits.astype(np.float32), labels


def classes_by_themselves(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw logits, some of them 0, and labels of 5 classes; often one that no row has."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(3, 60)), 5)
    truth = (generator.random(shape) < generator.choice([0, 0.05, 0.3, 1], 5)).astype(np.float32)
    logits = np.round(generator.normal(0, 1, shape) + truth, 1)
    return logits.astype(np.float32), truth


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_is_that_of_scikit_learn(seed: int) -> None:
    logits, labels = one_class_a_row(seed, 2)
    labels[:2] = 0, 1  # of one class alone scikit-learn's is undefined, and ours 0.5
    expected = roc_auc_score(labels, logits[:, 1].astype(np.float64) - logits[:, 0])
    assert score(logits, labels, "auroc").value == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_and_balanced_accuracy_are_those_of_scikit_learn(seed: int) -> None:
    logits, labels = one_class_a_row(seed, 4)
    decided = logits.argmax(axis=1)
    accuracy = score_logits(logits, labels, "single_label").value
    assert accuracy == pytest.approx(accuracy_score(labels, decided), abs=ROUNDING)
    # By the classes that have a row, as balanced_accuracy_score does, which warns of the others.
    expected = recall_score(labels, decided, labels=np.unique(labels), average="macro")
    result = score(logits, labels, "balanced_accuracy")
    assert result.value == pytest.approx(expected, abs=ROUNDING)
    assert result.low <= result.value <= result.high


@pytest.mark.parametrize("seed", SEEDS)
def test_f1_is_that_of_scikit_learn(seed: int) -> None:
    logits, truth = classes_by_themselves(seed)
    decided = logits >= 0

    def expected(average: str | None) -> Any:
        return f1_score(truth, decided, average=average, zero_division=0)

    micro = score_logits(logits, truth, "multi_label").value
    assert micro == pytest.approx(expected("micro"), abs=ROUNDING)
    macro, weighted = (score(logits, truth, name).value for name in ("macro_f1", "weighted_f1"))
    assert macro == pytest.approx(expected("macro"), abs=ROUNDING)
    assert weighted == pytest.approx(expected("weighted"), abs=ROUNDING)
    by_class = [score(logits[:, [c]], truth[:, [c]], "macro_f1").value for c in range(5)]
    assert by_class == pytest.approx(expected(None), abs=ROUNDING)


# An end of a 95 % interval from 1,000 resamples has a standard error of .021 of the interval's
# width (the density of a normal quantile): both have it, so 4 standard errors are .12 of it.
RESAMPLING = 0.12


def measures_of_rows() -> dict[str, tuple[Score, Callable[[NDArray[np.int64]], float], int]]:
    """Return, by name, a score, its metric as a function of row numbers, and how many there are."""
    logits, labels = one_class_a_row(5, 2)
    differences = logits[:, 1].astype(np.float64) - logits[:, 0]
    right = logits.argmax(axis=1) == labels
    many, truth = classes_by_themselves(7)
    found = many >= 0

    def auroc(rows: NDArray[np.int64]) -> float:
        is_second = labels[rows] == 1
        first, second = differences[rows][~is_second], differences[rows][is_second]
        return float(stats.mannwhitneyu(second, first).statistic / (len(first) * len(second)))

    def f1(rows: NDArray[np.int64], axis: int | None) -> float:
        hits = (found[rows] * truth[rows]).sum(axis)
        counted = found[rows].sum(axis) + truth[rows].sum(axis)
        return float(np.mean(2 * hits / np.maximum(counted, 1)))

    def recall(rows: NDArray[np.int64]) -> float:
        return float(np.mean([right[rows][labels[rows] == c].mean() for c in (0, 1)]))

    accuracy = score_logits(logits, labels, "single_label")
    micro = score_logits(many, truth, "multi_label")
    return {
        "accuracy": (accuracy, lambda rows: float(right[rows].mean()), len(labels)),
        "auroc": (score(logits, labels, "auroc"), auroc, len(labels)),
        "balanced_accuracy": (score(logits, labels, "balanced_accuracy"), recall, len(labels)),
        "micro_f1": (micro, lambda rows: f1(rows, None), len(truth)),
        "macro_f1": (score(many, truth, "macro_f1"), lambda rows: f1(rows, 0), len(truth)),
    }


@pytest.mark.parametrize("name", measures_of_rows())
def test_intervals_are_those_of_scipys_bootstrap(name: str) -> None:
    result, measure, rows = measures_of_rows()[name]
    assert result.value == pytest.approx(measure(np.arange(rows)), abs=ROUNDING)
    found = stats.bootstrap(
        (np.arange(rows),),
        measure,
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    low, high = found.confidence_interval
    assert (result.low, result.high) == pytest.approx((low, high), abs=RESAMPLING * (high - low))


def test_equal_classes_give_all_f1s_one_value_and_interval() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(generator.integers(0, 2, (150, 1)), 3, axis=1).astype(np.float32)
    logits = (truth - 0.5 + generator.normal(0, 0.6, (150, 1))).astype(np.float32)
    micro = score_logits(logits, truth, "multi_label")
    for name in ("macro_f1", "weighted_f1"):
        result = score(logits, truth, name)
        assert (result.value, result.low, result.high) == pytest.approx(
            (micro.value, micro.low, micro.high), abs=1e-12
        )


def test_a_constant_prediction_has_a_balanced_accuracy_of_one_over_the_classes() -> None:
    labels = np.array([0] * 97 + [1] * 3)
    logits = np.tile(np.float32([1, 0]), (100, 1))
    assert score(logits, labels, "balanced_accuracy").value == 0.5
    assert score_logits(logits, labels, "single_label").value == 0.97
