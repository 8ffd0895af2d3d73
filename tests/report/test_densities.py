import numpy as np
import pytest

from msd_deploy.report.densities import (
    BANDWIDTH,
    GRID,
    density,
    histogram,
    output_of,
    output_values,
    total_variation,
)


def test_a_density_holds_all_of_its_mass_between_0_and_1() -> None:
    values = np.concatenate([np.zeros(300), np.ones(100), np.linspace(0.2, 0.6, 50)])
    assert np.trapezoid(density(values), GRID) == pytest.approx(1, abs=2e-3)  # the grid's step


def test_a_density_is_the_gaussian_kernel_of_a_single_value() -> None:
    """Far from the ends; the value is rounded to a bin of 1/400, half a percent of the peak."""
    expected = np.exp(-(((GRID - 0.5) / BANDWIDTH) ** 2) / 2) / (BANDWIDTH * np.sqrt(2 * np.pi))
    assert density(np.array([0.5])) == pytest.approx(expected, abs=0.05 * expected.max())


def test_a_density_at_an_end_is_twice_as_high_for_want_of_room() -> None:
    inside = density(np.full(10, 0.5))[50]
    assert density(np.zeros(10))[0] == pytest.approx(2 * inside, rel=0.01)


def test_total_variation_is_0_for_equal_and_1_for_disjoint_histograms() -> None:
    low, high = histogram(np.array([0.01, 0.02])), histogram(np.array([0.98, 0.99]))
    assert total_variation(low, low) == 0
    assert total_variation(low, high) == 1
    half = histogram(np.array([0.01, 0.99]))
    assert total_variation(low, half) == pytest.approx(0.5)


def test_a_histogram_holds_both_ends() -> None:
    assert histogram(np.array([0.0, 1.0])).sum() == 1


def test_two_classes_are_shown_by_the_second_ones_probability() -> None:
    logits = np.array([[0.0, np.log(3)], [np.log(4), 0.0]], np.float32)
    output = output_of(("no", "yes"), "single_label")
    labels = np.array([0, 1])
    assert output.of == "positive_class"
    assert output_values(logits, labels, "single_label", output) == pytest.approx([0.75, 0.2])


def test_more_classes_are_shown_by_the_true_ones_probability() -> None:
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]], np.float32))
    output = output_of(("a", "b", "c"), "single_label")
    values = output_values(logits, np.array([1, 0]), "single_label", output)
    assert output.of == "true_class"
    assert values == pytest.approx([0.3, 0.6], abs=1e-6)


def test_several_labels_are_shown_by_each_true_ones_probability() -> None:
    logits = np.array([[0.0, np.log(3), 5.0], [-np.log(3), 0.0, 0.0]], np.float32)
    labels = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    output = output_of(("a", "b", "c"), "multi_label")
    values = output_values(logits, labels, "multi_label", output)
    assert output.of == "true_classes"
    assert values == pytest.approx([0.5, 0.75, 0.25], abs=1e-6)


def test_no_value_at_all_is_no_density() -> None:
    assert density(np.zeros(0)).max() == 0
    assert histogram(np.zeros(0)).max() == 0
