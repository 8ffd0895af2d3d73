"""Densities of what a model says under each view: the picture by which MSD is known.

After Jin et al. 2021, figure 1, which shows the density of model outputs for multimodal, image-only
and text-only input. The outputs here are probabilities; the kernel and its width are ours.
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
"""Deviation of the kernel, in units of probability: fine enough for a peak at either end."""
GRID: Values = np.linspace(0, 1, 101)
EDGES: Values = np.linspace(0, 1, 21)
_FINE_BINS = 400


@dataclass(frozen=True, slots=True)
class Output:
    """Which probability is looked at.

    Attributes:
        of: What it is the probability of.
        class_index: The positive class; None unless it is that one's.
    """

    of: OutputOf
    class_index: int | None


def output_of(labels: Sequence[str], problem: Problem) -> Output:
    """Return which probability tells most of a task.

    Two classes: that of the second one, so that both ends mean something. More: that of the true
    class. Independent classes: that of each class that is true of an example, to any degree, all of
    them together.
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
        labels: int64 [rows], or from 0 to 1 [rows, classes] if they are independent.
        problem: Decides between softmax and sigmoids.
        output: Which of them.
    """
    found = probabilities(logits, problem)
    if output.class_index is not None:
        chosen = found[:, output.class_index]
    elif has_independent_classes(problem):
        chosen = found[labels > 0]
    else:
        chosen = found[np.arange(len(found)), labels.astype(np.int64)]
    return np.asarray(chosen, np.float64)


def density(values: Values) -> Values:
    """Return a Gaussian kernel density at GRID, float64 [101]; its integral over 0..1 is 1.

    The kernel is reflected at 0 and 1, since no probability lies beyond.
    """
    counts, edges = np.histogram(values, bins=_FINE_BINS, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    images = (centres, -centres, 2 - centres)
    kernels = sum(np.exp(-(((GRID[:, None] - image) / BANDWIDTH) ** 2) / 2) for image in images)
    scale = BANDWIDTH * np.sqrt(2 * np.pi) * max(1, len(values))
    return np.asarray(kernels @ counts / scale, np.float64)


def histogram(values: Values) -> Values:
    """Return the share of values in each bin of EDGES, float64 [20]."""
    counts, _ = np.histogram(values, bins=EDGES)
    return np.asarray(counts / max(1, len(values)), np.float64)


def total_variation(first: Values, second: Values) -> float:
    """Return half the sum of absolute differences of two histograms: 0 alike, 1 apart."""
    return float(np.abs(first - second).sum() / 2)
