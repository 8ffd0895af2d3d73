"""Temperatures: fitted against a closed form, chosen by row, and their file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from msd_deploy.artifacts.manifest import write_json
from msd_deploy.errors import ArtifactError
from msd_deploy.run.calibration import (
    FEWEST_EXAMPLES,
    best_temperature,
    fit_temperatures,
    negative_log_likelihoods,
)
from msd_deploy.temperatures import (
    CALIBRATION_NAME,
    UNCALIBRATED,
    RowModalities,
    Temperatures,
    read_temperatures,
    temperatures_from_text,
)
from msd_deploy.views import View

ROWS = 20_000


def drawn(temperature: float, rows: int = ROWS) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return logits of two classes, and labels drawn from their probabilities at a temperature."""
    generator = np.random.default_rng(3)
    logits = (3 * generator.normal(size=(rows, 2))).astype(np.float32)
    probability = expit((logits[:, 1] - logits[:, 0]) / temperature)
    return logits, (generator.random(rows) < probability).astype(np.int64)


def fitted(
    logits: NDArray[Any], labels: NDArray[Any], **present: NDArray[np.bool_]
) -> Temperatures:
    everywhere = np.ones(len(labels), bool)
    return fit_temperatures(
        dict.fromkeys(View, logits),
        labels,
        "single_label",
        has_image=present.get("has_image", everywhere),
        has_text=present.get("has_text", everywhere),
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    temperatures = fitted(logits, labels)
    assert temperatures.by_view[View.MULTIMODAL] == pytest.approx(temperature, rel=0.05)
    assert temperatures.examples == dict.fromkeys(View, ROWS)


def test_a_temperature_that_fits_by_chance_is_not_taken() -> None:
    logits, labels = drawn(1.0, 500)
    assert best_temperature(logits, labels, "single_label", least=0.2) != pytest.approx(1, abs=1e-3)
    assert fitted(logits, labels).by_view == dict.fromkeys(View, 1.0)
    logits, labels = drawn(1.6, 500)
    found = best_temperature(logits, labels, "single_label", least=0.2, prior=1.0)
    assert fitted(logits, labels).by_view[View.TEXT] == pytest.approx(found, abs=1e-4)


def test_the_gradient_of_the_loss_is_zero_at_the_fitted_temperature() -> None:
    logits, labels = drawn(2.0)
    found = best_temperature(logits, labels, "single_label", least=0.1, most=10)
    around = [
        negative_log_likelihoods(logits / t, labels, "single_label").mean()
        for t in (found * 0.98, found, found * 1.02)
    ]
    assert around[1] < min(around[0], around[2])


def test_independent_classes_are_fitted_by_their_own_likelihoods() -> None:
    generator = np.random.default_rng(5)
    logits = (3 * generator.normal(size=(4000, 6))).astype(np.float32)
    labels = (generator.random(logits.shape) < expit(logits / 1.7)).astype(np.float32)
    found = best_temperature(logits, labels, "multi_label", least=0.1, most=10)
    assert found == pytest.approx(1.7, rel=0.05)


def test_examples_that_are_all_correct_do_not_make_the_temperature_vanish() -> None:
    logits = np.tile(np.array([[2.0, 0.0]], np.float32), (500, 1))
    temperature = fitted(logits, np.zeros(500, np.int64)).by_view[View.MULTIMODAL]
    assert 0.2 < temperature < 1  # 500 correct answers allow more confidence, not certainty


def test_a_view_is_fitted_on_the_examples_that_have_its_modalities() -> None:
    logits, labels = drawn(1.0)
    has_text = np.arange(ROWS) < ROWS // 2
    logits[:, :] = np.where(has_text[:, None], logits, logits * 4)  # overconfident without a text
    temperatures = fitted(logits, labels, has_text=has_text)
    assert temperatures.by_view[View.MULTIMODAL] == pytest.approx(1, rel=0.05)
    assert temperatures.by_view[View.IMAGE] > 1.5
    assert temperatures.examples[View.TEXT] == ROWS // 2


def test_too_few_examples_leave_probabilities_as_they_are() -> None:
    logits, labels = drawn(3.0, FEWEST_EXAMPLES - 1)
    temperatures = fitted(logits, labels)
    assert temperatures == UNCALIBRATED
    assert not temperatures.is_fitted


def test_each_row_has_the_temperature_of_its_modalities() -> None:
    temperatures = Temperatures(
        dict(zip(View, (2.0, 3.0, 5.0), strict=True)), dict.fromkeys(View, 100)
    )
    has_image, has_text = np.array([True, True, False, False]), np.array([True, False, True, False])
    logits = dict.fromkeys(View, np.full((4, 2), 30.0, np.float32))
    scaled = temperatures.scaled(logits, RowModalities(has_image, has_text))
    assert scaled[View.MULTIMODAL][:, 0].tolist() == [15.0, 10.0, 6.0, 6.0]
    assert scaled[View.IMAGE][:, 0].tolist() == [10.0, 10.0, 6.0, 6.0]  # a text is withheld


def test_each_row_has_the_bias_of_its_modalities() -> None:
    biased = Temperatures(
        dict.fromkeys(View, 2.0),
        dict.fromkeys(View, 100),
        dict(zip(View, (1.0, -1.0, 0.5), strict=True)),
    )
    has_image, has_text = np.array([True, True, False]), np.array([True, False, True])
    applied = biased.applied(np.full((3, 2), 4.0, np.float32), has_image, has_text)
    assert applied.tolist() == [[3.0, 3.0], [1.0, 1.0], [2.5, 2.5]]
    assert applied.dtype == np.float32


def test_sigmoids_that_are_too_high_get_a_bias() -> None:
    """Labels are drawn from sigmoid((z - 1) / 2): T = 2 and b = -1/2."""
    generator = np.random.default_rng(4)
    logits = (3 * generator.normal(size=(ROWS // 2, 2))).astype(np.float32)
    labels = (generator.random(logits.shape) < expit((logits - 1) / 2)).astype(np.float32)
    everywhere = np.ones(len(labels), bool)
    found = fit_temperatures(
        dict.fromkeys(View, logits),
        labels,
        "multi_label",
        has_image=everywhere,
        has_text=everywhere,
    )
    assert found.by_view[View.TEXT] == pytest.approx(2, rel=0.05)
    assert found.biases[View.TEXT] == pytest.approx(-0.5, abs=0.05)
    scaled = found.applied(logits, everywhere, everywhere)
    assert expit(scaled).mean() == pytest.approx(labels.mean(), abs=0.002)


def test_a_softmax_has_no_bias() -> None:
    logits, labels = drawn(2.0, 500)
    assert fitted(logits, labels).biases == {}


def test_temperatures_are_read_as_they_were_written(tmp_path: Path) -> None:
    temperatures = Temperatures(
        dict(zip(View, (1.25, 0.5, 3.0), strict=True)), dict.fromkeys(View, 80)
    )
    biased = replace(temperatures, biases=dict(zip(View, (0.25, -1.5, 0.0), strict=True)))
    for each in (temperatures, biased):
        write_json(tmp_path / CALIBRATION_NAME, each.as_json())
        assert read_temperatures(tmp_path) == each
        stated = temperatures_from_text(each.as_text(), tmp_path)
        assert (stated.by_view, stated.biases) == (each.by_view, each.biases)
    assert read_temperatures(tmp_path / "elsewhere") == UNCALIBRATED


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperatures", {"multimodal": 1.0}, "temperatures must have multimodal, image, text"),
        ("temperatures", {"multimodal": 0, "image": 1, "text": 1}, "the temperature 0 for the"),
        ("temperatures", {"multimodal": "1", "image": 1, "text": 1}, "the temperature '1' for"),
        ("temperatures", {"multimodal": True, "image": 1, "text": 1}, "the temperature True for"),
        ("temperatures", [1, 1, 1], "temperatures must have"),
        ("examples", {"multimodal": -1, "image": 1, "text": 1}, "-1 examples for the multimodal"),
        ("examples", None, "examples must have"),
        ("examples", {"multimodal": 0, "image": 9, "text": 9}, "0 examples .* temperature 2"),
        ("method", "isotonic", "an unknown method 'isotonic'"),
        ("method", "platt", "biases must have multimodal, image, text"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    content = Temperatures(dict.fromkeys(View, 2.0), dict.fromkeys(View, 9)).as_json()
    content |= {key: value}
    (tmp_path / CALIBRATION_NAME).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=message):
        read_temperatures(tmp_path)
