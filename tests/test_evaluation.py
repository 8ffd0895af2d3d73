import numpy as np
import pytest

from msd_deploy.metrics import agreement, decisions, score_logits


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
