"""Calibration in a run: temperatures are fitted on validation, and their effect is measured.

Temperature scaling after Guo et al. 2017, section 4.2; docs/method.md has the formula.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from msd_deploy.artifacts.manifest import Json
from msd_deploy.confidence import confidence_of_views
from msd_deploy.data.prepared import PreparedData, PreparedSplit
from msd_deploy.metrics import LabelArray, LogitArray
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.temperatures import (
    HIGHEST,
    LOWEST,
    MOST_BIAS,
    UNCALIBRATED,
    RowModalities,
    Temperatures,
    rows_of_views,
)
from msd_deploy.views import View

FEWEST_EXAMPLES = 50
"""Of fewer, the temperature of the lowest loss is mostly that of the examples' noise."""

_HIGHEST_TO_COMPARE = 1000.0
_BY_CHANCE = 3.84
"""95th percentile of chi-squared with one degree of freedom: by how much twice the logarithm of the
likelihood rises at the best temperature where the right one is 1."""


def fit_on_split(
    logits: Mapping[View, LogitArray], split: PreparedSplit, problem: Problem
) -> Temperatures:
    """Fit a model's temperatures on the labelled examples of a split.

    Args:
        logits: Of the split, [examples, classes] for all three views.
        split: Of validation, as a rule: examples that the model was not trained on.
        problem: Kind of the task.
    """
    labelled = split.has_label()
    return fit_temperatures(
        {view: values[labelled] for view, values in logits.items()},
        split.labels[labelled],
        problem,
        has_image=split.has_image()[labelled],
        has_text=split.has_text()[labelled],
    )


def fit_temperatures(
    logits: Mapping[View, LogitArray],
    labels: LabelArray,
    problem: Problem,
    *,
    has_image: NDArray[np.bool_],
    has_text: NDArray[np.bool_],
) -> Temperatures:
    """Fit the temperature of each view that minimizes the negative log-likelihood.

    Of independent classes together with a bias: sigmoids can be too high in all, which no
    temperature changes.

    Each on the examples that have the modalities of its view; with fewer than 50 of them it is 1.
    Where one class applies it is also 1 if another is no better beyond chance.
    Where all of a few examples are correct the likelihood alone has no optimum, so log T has a
    standard normal prior, which weighs as much as less than one example.

    Args:
        logits: [examples, classes] for all three views.
        labels: See `score_logits`; every example has one.
        problem: Kind of the task.
        has_image: bool [examples], whether they have an image.
        has_text: The same of a text.
    """
    used = rows_of_views(RowModalities(has_image, has_text))
    temperatures, examples = dict.fromkeys(View, 1.0), dict.fromkeys(View, 0)
    biases = dict.fromkeys(View, 0.0)
    for view, rows in used.items():
        if rows.sum() >= FEWEST_EXAMPLES:
            fitted = best_temperature(
                logits[view][rows],
                labels[rows],
                problem,
                least=LOWEST,
                most=HIGHEST,
                prior=1.0,
            )
            if has_independent_classes(problem):
                fitted, bias = _best_with_bias(logits[view][rows], labels[rows], problem, fitted)
                biases[view] = round(bias, 4)
            elif not _is_beyond_chance(logits[view][rows], labels[rows], problem, fitted):
                fitted = 1.0
            temperatures[view], examples[view] = round(fitted, 4), int(rows.sum())
    return Temperatures(temperatures, examples, biases if any(biases.values()) else {})


def _is_beyond_chance(
    logits: LogitArray, labels: LabelArray, problem: Problem, temperature: float
) -> bool:
    """Return whether a temperature fits better than 1 by more than chance: Wilks 1938, at 95 %."""
    before, after = (
        negative_log_likelihoods(logits / number, labels, problem).sum()
        for number in (1.0, temperature)
    )
    return bool(2 * (before - after) > _BY_CHANCE)


def _best_with_bias(
    logits: LogitArray, labels: LabelArray, problem: Problem, temperature: float
) -> tuple[float, float]:
    """Return temperature and bias of the lowest mean loss of independent classes (Platt 1999).

    Both have priors as the temperature alone; the bias a standard normal one.

    Args:
        logits: [examples, classes].
        labels: See `score_logits`; every example has one.
        problem: Kind of the task.
        temperature: Where the search begins.
    """

    def loss(values: NDArray[np.float64]) -> float:
        power, bias = values
        losses = negative_log_likelihoods(logits / np.exp(power) + bias, labels, problem)
        return float(losses.mean() + (power**2 + bias**2) / (2 * len(losses)))

    limits = [(math.log(LOWEST), math.log(HIGHEST)), (-MOST_BIAS, MOST_BIAS)]
    found = minimize(loss, [math.log(temperature), 0.0], bounds=limits, method="L-BFGS-B")
    return float(np.exp(found.x[0])), float(found.x[1])


def best_temperature(
    logits: LogitArray,
    labels: LabelArray,
    problem: Problem,
    *,
    least: float = 1.0,
    most: float = _HIGHEST_TO_COMPARE,
    prior: float = 0.0,
) -> float:
    """Return the temperature in a range that has the lowest mean loss (Guo et al. 2017).

    Args:
        logits: [examples, classes].
        labels: See `score_logits`; every example has one.
        problem: Kind of the task.
        least: Lower end of the range.
        most: Upper end.
        prior: Precision of a normal prior of log T around 0; 0: none.
    """

    def loss(power: float) -> float:
        losses = negative_log_likelihoods(logits / np.exp(power), labels, problem)
        return float(losses.mean()) + prior * power**2 / (2 * len(losses))

    found = minimize_scalar(
        loss,
        bounds=(math.log(least), math.log(most)),
        method="bounded",
    )
    return float(np.exp(found.x))


def negative_log_likelihoods(
    logits: LogitArray, labels: LabelArray, problem: Problem
) -> NDArray[np.float64]:
    """Return the loss of each example in nats, [examples], as `label_loss` without weights.

    Of independent classes the mean over the classes.
    """
    wide = logits.astype(np.float64)
    if has_independent_classes(problem):
        return np.asarray((np.logaddexp(0, wide) - wide * labels).mean(axis=1), np.float64)
    picked = np.take_along_axis(wide, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(np.logaddexp.reduce(wide, axis=1) - picked, np.float64)


def state_confidence(
    facts: Json,
    data: PreparedData,
    split: str,
    logits: Mapping[View, LogitArray],
    temperatures: Temperatures = UNCALIBRATED,
) -> None:
    """Add the calibration of a model on a split to its results.

    Args:
        facts: Gets, under "confidence" and the split's name, each view's `ConfidenceJson`; of a
            calibrated model also that before, under "uncalibrated"; nothing of a split without
            labels.
        data: The data.
        split: Which split of it.
        logits: Per view [examples, classes].
        temperatures: The model's.
    """
    rows = data.splits[split]
    labelled = rows.has_label()
    if not labelled.any():
        return
    labels, problem = rows.labels[labelled], data.info.problem
    scaled = temperatures.scaled(logits, rows)
    stated = facts.setdefault("confidence", {})
    assert isinstance(stated, dict)
    stated[split] = confidence_of_views(
        {view: values[labelled] for view, values in scaled.items()}, labels, problem
    )
    if temperatures.is_fitted:
        before = stated.setdefault("uncalibrated", {})
        before[split] = confidence_of_views(
            {view: values[labelled] for view, values in logits.items()}, labels, problem
        )
