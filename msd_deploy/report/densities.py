"""Densities and histograms of a model's output probabilities in each view.

After Jin et al. 2021, figure 1, which shows densities of model outputs for multimodal, image-only
and text-only input. Outputs here are probabilities; the kernel and its bandwidth are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_deploy.metrics import LabelArray, LogitArray, probabilities
from msd_deploy.problem import Problem, has_independent_classes
from msd_deploy.report.schema import OutputOf

Values = NDArray[np.float64]

BANDWIDTH = 0.03
"""Standard deviation of the kernel, in probability: narrow enough for a peak at either end."""
GRID: Values = np.linspace(0, 1, 101)
EDGES: Values = np.linspace(0, 1, 21)
_FINE_BINS = 400


@dataclass(frozen=True, slots=True)
class Output:
    """The probability whose distribution is shown.

    Attributes:
        of: Which class's probability.
        class_index: Index of the positive class; None for other outputs.
    """

    of: OutputOf
    class_index: int | None


def output_of(labels: Sequence[str], problem: Problem) -> Output:
    """Return the probability to show for a task.

    Two classes: that of the second class, so that both ends are informative. More classes: that of
    the true class. Independent classes: that of each true class of an example, to any degree,
    pooled.
    """
    if has_independent_classes(problem):
        return Output("true_classes", None)
    if len(labels) == 2:
        return Output("positive_class", 1)
    return Output("true_class", None)


def output_values(
    logits: LogitArray, labels: LabelArray, problem: Problem, output: Output
) -> Values:
    """Return the probabilities of a split, float64 [values].

    Args:
        logits: [rows, classes].
        labels: int64 [rows], or in 0..1 [rows, classes] if classes are independent.
        problem: Kind of the task, for softmax or sigmoids.
        output: The selected probability.
    """
    all_classes = probabilities(logits, problem)
    if output.class_index is not None:
        values = all_classes[:, output.class_index]
    elif has_independent_classes(problem):
        values = all_classes[labels > 0]
    else:
        values = all_classes[np.arange(len(all_classes)), labels.astype(np.int64)]
    return np.asarray(values, np.float64)


def density(values: Values) -> Values:
    """Compute a Gaussian kernel density at GRID, float64 [101]; its integral over 0..1 is 1.

    The kernel is reflected at 0 and 1, the limits of a probability.
    """
    counts, edges = np.histogram(values, bins=_FINE_BINS, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    reflections = (centres, -centres, 2 - centres)
    kernels = sum(np.exp(-(((GRID[:, None] - at) / BANDWIDTH) ** 2) / 2) for at in reflections)
    scale = BANDWIDTH * np.sqrt(2 * np.pi) * max(1, len(values))
    return np.asarray(kernels @ counts / scale, np.float64)


def histogram(values: Values) -> Values:
    """Compute the share of values in each bin of EDGES, float64 [20]."""
    counts, _ = np.histogram(values, bins=EDGES)
    return np.asarray(counts / max(1, len(values)), np.float64)


def total_variation(first: Values, second: Values) -> float:
    """Compute half the sum of absolute differences of two histograms: 0 equal, 1 disjoint."""
    return float(np.abs(first - second).sum() / 2)
